"""Training losses: one file a term, pure functions; `objective` composes them into the stages."""
