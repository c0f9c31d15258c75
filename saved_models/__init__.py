"""Trained models, which `iwae_tf.from_pretrained` loads by name."""
