"""Quantized folders: between the tensors of the files and the rules of a family, weights as if they were not quantized.

``quantization_config`` in config.json names the method; which modules are quantized, the tensors' presence decides. No
family knows of any of it. A method is a file here: how its tensors are read, and what of its settings changes numbers.
"""
