"""ROS 2 bags, read and written without ROS."""
