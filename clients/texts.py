"""What the clients ask about."""

from __future__ import annotations

QUERY = "How do I reset a forgotten password?"
DOCUMENTS = [
    "The cafeteria is open from eight to five on weekdays.",
    "Open the sign-in page, choose 'Forgot password' and follow the link in the mail.",
    "Passwords must have twelve characters or more, one of them a digit.",
    "Où est la bibliothèque ? Elle est fermée depuis l'été dernier. 図書館 📚",
]
TEXTS = [
    "I would buy this again without a second thought.",
    "The screen cracked on the first day and nobody answers my mails.",
    "It arrived on Tuesday. 😀",
]
LONG_TEXT = "Nobody reads a manual of this length from the first page to the last. " * 200
"""About 3,000 tokens: longer than any model that is served here."""
