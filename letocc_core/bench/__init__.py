"""What things cost on this machine, split by part, with the work counted (`letocc bench`)."""
