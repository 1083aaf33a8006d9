"""What an answer may be: a JSON schema, a regular expression or a grammar, kept to token by token.

``schema_grammar``, ``regex_grammar``, ``grammar_of`` make a ``Grammar``; ``constrain`` makes of it what a request's
``constraint`` is. The parsing is llguidance's (MIT); here are its vocabulary, from any tokenizer, and its errors.
"""
