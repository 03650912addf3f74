"""Camera-only 3D occupancy and motion, learned without 3D labels. No ROS import anywhere below."""

__version__ = "0.1.0"
