"""The review page: an expert, a browser, and the next case.

desk    what the page shows and takes, as functions on a project
state   leases, sessions, verdicts and seconds in SQLite; drafts as files
tokens  who may do what
audit   who did what, in a log whose every line seals the one before
tuning  the live loop: the round to its end and the next one begun, in a process of its own
server  HTTP: checks, calls the desk, answers
slicer  the protocol of MONAI Label on the same server; slicer_labels, slicer_sessions and slicer_train are its parts
page/   HTML, CSS and JavaScript as the browser gets them; NiiVue draws
"""
