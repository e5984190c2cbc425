"""Use of a trained network: how it is run, figures on a dataset, predictions of images."""
