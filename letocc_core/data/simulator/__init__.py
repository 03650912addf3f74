"""A street with traffic whose truth is known: seeded worlds, ray-cast images, LiDAR, flow, occupancy and velocity."""
