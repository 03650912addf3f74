"""SE(3), pinhole cameras and voxel grids: the conventions that everything else relies on."""
