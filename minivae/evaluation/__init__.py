"""What a trained model is asked: embeddings, scores and bounds, samples, missing cells, and how far to trust the answers."""
