"""Questions that a trace answers: why, how sure, what else, compared with what."""
