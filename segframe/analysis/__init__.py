"""Analysis of networks and runs: summary, receptive field, replay of a diverged step."""
