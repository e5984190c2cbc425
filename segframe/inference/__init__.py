"""Use of a trained network: figures on a dataset, predictions of images."""
