#!/usr/bin/python3
"""What a desktop has on its session bus and this machine has not: a place for icons in the tray, and one for notifications.

Run by the tests with the system's Python, which has `gi`. Says on standard output, a JSON line each, which icons and
notifications came; `{"menu": true}` on standard input asks for the lines of the icon's menu, `{"press": ID}` presses one.
"""

import json
import sys
import threading

import gi

gi.require_version("Gio", "2.0")
from gi.repository import Gio, GLib  # noqa: E402

WATCHER = """<node><interface name="org.kde.StatusNotifierWatcher">
  <method name="RegisterStatusNotifierItem"><arg type="s" direction="in"/></method>
  <method name="RegisterStatusNotifierHost"><arg type="s" direction="in"/></method>
  <property name="RegisteredStatusNotifierItems" type="as" access="read"/>
  <property name="IsStatusNotifierHostRegistered" type="b" access="read"/>
  <property name="ProtocolVersion" type="i" access="read"/>
</interface></node>"""

NOTIFICATIONS = """<node><interface name="org.freedesktop.Notifications">
  <method name="Notify"><arg type="s" direction="in"/><arg type="u" direction="in"/><arg type="s" direction="in"/>
    <arg type="s" direction="in"/><arg type="s" direction="in"/><arg type="as" direction="in"/>
    <arg type="a{sv}" direction="in"/><arg type="i" direction="in"/><arg type="u" direction="out"/></method>
  <method name="GetCapabilities"><arg type="as" direction="out"/></method>
  <method name="GetServerInformation"><arg type="s" direction="out"/><arg type="s" direction="out"/>
    <arg type="s" direction="out"/><arg type="s" direction="out"/></method>
</interface></node>"""

ITEMS = []


def say(**what):
    print(json.dumps(what), flush=True)


def watcher_called(_bus, sender, _path, _interface, method, given, answer):
    if method == "RegisterStatusNotifierItem":
        (place,) = given.unpack()
        # Ayatana's library names a path on its own connection, others a name on the bus.
        ITEMS.append((sender, place) if place.startswith("/") else (place, "/StatusNotifierItem"))
        say(item=place)
    answer.return_value(None)


def watcher_asked(_bus, _sender, _path, _interface, name):
    values = {"RegisteredStatusNotifierItems": GLib.Variant("as", [a + b for a, b in ITEMS]),
              "IsStatusNotifierHostRegistered": GLib.Variant("b", True), "ProtocolVersion": GLib.Variant("i", 0)}
    return values[name]


def notified(_bus, _sender, _path, _interface, method, given, answer):
    if method == "Notify":
        _, _, _, title, body, *_ = given.unpack()
        say(notification={"title": title, "body": body})
        answer.return_value(GLib.Variant("(u)", (1,)))
    elif method == "GetCapabilities":
        answer.return_value(GLib.Variant("(as)", (["body"],)))
    else:
        answer.return_value(GLib.Variant("(ssss)", ("test", "test", "1", "1.2")))


def call(name, path, interface, method, given):
    bus = Gio.bus_get_sync(Gio.BusType.SESSION)
    return bus.call_sync(name, path, interface, method, given, None, Gio.DBusCallFlags.NONE, 10_000, None).unpack()


def menu():
    """The lines of the last icon's menu: `[{"id", "label", "on", "enabled"}]`."""
    name, path = ITEMS[-1]
    asked = GLib.Variant("(ss)", ("org.kde.StatusNotifierItem", "Menu"))
    (place,) = call(name, path, "org.freedesktop.DBus.Properties", "Get", asked)
    asked = GLib.Variant("(iias)", (0, -1, []))
    _, (_, _, lines) = call(name, place, "com.canonical.dbusmenu", "GetLayout", asked)
    found = []
    for number, properties, _ in lines:
        if properties.get("label"):
            found.append({"id": number, "label": properties["label"].replace("_", ""), "on": properties.get("toggle-state") == 1,
                          "enabled": properties.get("enabled", True)})
    return found, name, place


def asked():
    for line in sys.stdin:
        wish = json.loads(line)
        try:
            lines, name, place = menu()
            if "press" in wish:
                given = GLib.Variant("(isvu)", (wish["press"], "clicked", GLib.Variant("i", 0), 0))
                call(name, place, "com.canonical.dbusmenu", "Event", given)
                say(pressed=wish["press"])
            else:
                say(menu=lines)
        except (GLib.Error, IndexError) as error:
            say(failed=str(error))


def main():
    bus = Gio.bus_get_sync(Gio.BusType.SESSION)
    watcher = Gio.DBusNodeInfo.new_for_xml(WATCHER).interfaces[0]
    bus.register_object("/StatusNotifierWatcher", watcher, watcher_called, watcher_asked, None)
    notifications = Gio.DBusNodeInfo.new_for_xml(NOTIFICATIONS).interfaces[0]
    bus.register_object("/org/freedesktop/Notifications", notifications, notified, None, None)
    for name in ("org.kde.StatusNotifierWatcher", "org.freedesktop.Notifications"):
        Gio.bus_own_name_on_connection(bus, name, Gio.BusNameOwnerFlags.NONE, lambda _, name: say(owned=name), None)
    threading.Thread(target=asked, daemon=True).start()
    GLib.MainLoop().run()


main()
