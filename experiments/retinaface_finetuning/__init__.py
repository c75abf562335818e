"""papers/retinaface_finetuning in small."""
