"""The book as one PDF, printed by Chromium from the built site.

contents  which pages there are, in which parts, and what the title page says
document  the HTML that they are put into: front matter, places for pages, page style
browser   Chromium: put the pages together, set the formulas, make things fit, print
finish    page numbers, bookmarks and metadata, with pikepdf
"""
