"""What a dataset's files hold, and what of it would spoil a training: all of them on demand, a few at its start."""
