"""Tool calls and thoughts: how each chat template's model writes them, read as they come, and held to their schemas.

``tool_format`` chooses a format by the template; its ``parser`` turns an answer's text into deltas as OpenAI's API has
them, its ``grammar`` says what the answer may be.
"""
