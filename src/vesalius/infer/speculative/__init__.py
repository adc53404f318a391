"""Speculative decoding: guess several tokens, read them in one step, keep those that plain decoding would have
written.
"""
