"""An encoder-decoder with attention that answers sentences, served as one graph or as a pipeline."""
