"""Training data: files to records, records to tokens and masks, tokens to batches."""
