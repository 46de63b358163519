"""What is expected of an HTML page."""

import re


def is_self_contained(page):
    """Return whether a page loads and runs nothing from outside."""
    return not re.search(r'(?:src|href)="(?!#|data:)|url\((?!#)|@import|<script|<link|<iframe', page)
