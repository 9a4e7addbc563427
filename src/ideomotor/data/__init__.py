"""Datasets: formats, statistics, windows, the mixture and the loader. numpy, pyarrow and PyAV; no deep learning."""
