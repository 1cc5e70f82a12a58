// The least that a window of WebKit takes: one line of text, nothing of HEPH. `desktop.py floor` builds it, times it and weighs it.
// Says when its first text was drawn, in milliseconds since 1970, as the page's own clock has it, and waits to be ended.
#include <stdio.h>
#include <webkit2/webkit2.h>

static const char PAGE[] =
    "<!doctype html><p>One line of text.</p><script>"
    "new PerformanceObserver((list) => { const [paint] = list.getEntriesByName('first-contentful-paint');"
    " if (paint) document.title = performance.timeOrigin + paint.startTime; }).observe({ type: 'paint', buffered: true })"
    "</script>";

static void drawn(GObject *page, GParamSpec *changed, gpointer nothing) {
    (void)changed, (void)nothing;
    const char *title = webkit_web_view_get_title(WEBKIT_WEB_VIEW(page));
    if (title && *title) {
        puts(title);
        fflush(stdout);
    }
}

int main(int count, char **words) {
    gtk_init(&count, &words);
    GtkWidget *window = gtk_window_new(GTK_WINDOW_TOPLEVEL), *page = webkit_web_view_new();
    gtk_window_set_default_size(GTK_WINDOW(window), 1180, 780);
    g_signal_connect(page, "notify::title", G_CALLBACK(drawn), NULL);
    gtk_container_add(GTK_CONTAINER(window), page);
    webkit_web_view_load_html(WEBKIT_WEB_VIEW(page), PAGE, "http://127.0.0.1/");
    gtk_widget_show_all(window);
    gtk_main();
}
