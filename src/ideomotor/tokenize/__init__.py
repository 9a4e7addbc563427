"""Text and actions as token ids. numpy and `tokenizers`; no deep learning."""
