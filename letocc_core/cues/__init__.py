"""2D cues that supervise motion: computed from images alone, before training."""
