"""Ground floor: errors, files, JSON, and an array that can name bfloat16 and block-quantized formats."""
