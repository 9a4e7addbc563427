"""RLDS datasets (TFRecord), read without TensorFlow."""
