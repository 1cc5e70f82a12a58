#!/usr/bin/python3
"""A window that files are dragged out of, as a program for files has one: `drag.py ADDRESS...`, in a corner of the screen.

Run by the tests with the system's Python, which has `gi`. Says `ended` on standard output, a line for each time that something was dragged.
"""

import sys

import gi

gi.require_version("Gdk", "3.0")
gi.require_version("Gtk", "3.0")
from gi.repository import Gdk, Gtk  # noqa: E402

# Below and beside the windows of HEPH, which have 1180 by 780.
LEFT, TOP, WIDTH, HEIGHT = 1240, 800, 140, 90


def main():
    window = Gtk.Window(title="files", default_width=WIDTH, default_height=HEIGHT)
    files = Gtk.EventBox()
    files.drag_source_set(Gdk.ModifierType.BUTTON1_MASK, [], Gdk.DragAction.COPY)
    files.drag_source_add_uri_targets()
    files.connect("drag-data-get", lambda _files, _drag, data, *_: data.set_uris(sys.argv[1:]))
    files.connect("drag-end", lambda *_: print("ended", flush=True))
    window.add(files)
    window.show_all()
    window.move(LEFT, TOP)
    Gtk.main()


main()
