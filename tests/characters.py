"""Characters for hypothesis that a comparison of two libraries may draw."""

import unicodedata

from hypothesis import strategies as st

_OLD = unicodedata.ucd_3_2_0

OLD_CHARACTERS = st.characters(exclude_categories=["Cn", "Cs"]).filter(lambda c: _OLD.category(c) != "Cn")
"""Those that every table of Unicode knows: the Rust library's is older than Python's."""
