"""What a trained model says of data: held-out bounds, encodings, reconstructions, samples."""
