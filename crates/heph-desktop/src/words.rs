//! The words of menus, tray and notifications, in the languages of the page.

/// Every sentence once.
pub(crate) struct Words {
    pub(crate) open: &'static str,
    pub(crate) quick: &'static str,
    pub(crate) cut: &'static str,
    pub(crate) lend: &'static str,
    pub(crate) rest: &'static str,
    pub(crate) file: &'static str,
    pub(crate) chat: &'static str,
    pub(crate) window: &'static str,
    pub(crate) close: &'static str,
    pub(crate) quit: &'static str,
    pub(crate) view: &'static str,
    pub(crate) larger: &'static str,
    pub(crate) smaller: &'static str,
    pub(crate) usual: &'static str,
    pub(crate) reload: &'static str,
    pub(crate) screen: &'static str,
    pub(crate) machine: &'static str,
    pub(crate) stay: &'static str,
    pub(crate) login: &'static str,
    pub(crate) help: &'static str,
    pub(crate) about: &'static str,
    pub(crate) may_update: &'static str,
    pub(crate) updates: &'static str,
    pub(crate) no_updates: &'static str,
    pub(crate) update_found: &'static str,
    pub(crate) update_none: &'static str,
    pub(crate) update_failed: &'static str,
    pub(crate) update_wrong: &'static str,
    pub(crate) update_off: &'static str,
    pub(crate) answered: &'static str,
    pub(crate) pulled: &'static str,
    pub(crate) look: &'static str,
    pub(crate) saved: &'static str,
    pub(crate) broke: &'static str,
    pub(crate) failed: &'static str,
}

/// The words for a language as systems and pages write it, as in `de_AT.UTF-8` or `zh-Hans`; English where there are none.
pub(crate) fn words(tongue: &str) -> &'static Words {
    let primary = tongue.split(['_', '-', '.']).next().unwrap_or_default();
    match primary.to_ascii_lowercase().as_str() {
        "de" => &GERMAN,
        "zh" => &CHINESE,
        "ar" => &ARABIC,
        _ => &ENGLISH,
    }
}

/// The language of the system.
pub(crate) fn of_system() -> String {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    ["LC_ALL", "LC_MESSAGES", "LANG"]
        .into_iter()
        .find_map(set)
        .unwrap_or_default()
}

const ENGLISH: Words = Words {
    open: "Open HEPH",
    quick: "Quick question…",
    cut: "Cut off: nothing leaves this computer",
    lend: "Share this computer",
    rest: "Pause sharing",
    file: "File",
    chat: "New chat",
    window: "New window",
    close: "Close window",
    quit: "Quit",
    view: "View",
    larger: "Larger",
    smaller: "Smaller",
    usual: "Usual size",
    reload: "Reload",
    screen: "Full screen",
    machine: "Computer",
    stay: "Stay in the tray when the window is closed",
    login: "Start with the computer",
    help: "Help",
    about: "About HEPH",
    may_update: "Allow updates",
    updates: "Look for updates",
    no_updates: "Updates: this build fetches none",
    update_found: "There is a new version. Quit and open HEPH to use it.",
    update_none: "This is the newest version.",
    update_failed: "Nothing could be found out about updates.",
    update_wrong: "A new version was offered whose signature is wrong. It was not taken.",
    update_off: "No update was looked for: it is not allowed here, or this computer is cut off.",
    answered: "The answer is there",
    pulled: "The model is there",
    look: "Open HEPH to see it.",
    saved: "Saved",
    broke: "The engine ended and is being started again.",
    failed: "The engine does not start",
};

const GERMAN: Words = Words {
    open: "HEPH öffnen",
    quick: "Schnelle Frage…",
    cut: "Abschneiden: nichts verlässt diesen Rechner",
    lend: "Diesen Rechner teilen",
    rest: "Teilen anhalten",
    file: "Datei",
    chat: "Neues Gespräch",
    window: "Neues Fenster",
    close: "Fenster schließen",
    quit: "Beenden",
    view: "Ansicht",
    larger: "Größer",
    smaller: "Kleiner",
    usual: "Übliche Größe",
    reload: "Neu laden",
    screen: "Ganzer Bildschirm",
    machine: "Rechner",
    stay: "Beim Schließen des Fensters weiterlaufen",
    login: "Mit dem Rechner starten",
    help: "Hilfe",
    about: "Über HEPH",
    may_update: "Neuerungen zulassen",
    updates: "Nach Neuerungen suchen",
    no_updates: "Neuerungen: dieser Bau holt keine",
    update_found: "Es gibt eine neue Version. HEPH beenden und öffnen, um sie zu nutzen.",
    update_none: "Das ist die neueste Version.",
    update_failed: "Über Neuerungen war nichts zu erfahren.",
    update_wrong: "Eine neue Version mit falscher Unterschrift wurde angeboten. Sie wurde nicht genommen.",
    update_off: "Es wurde nicht nach Neuerungen gesucht: Das ist hier nicht zugelassen, oder dieser Rechner ist abgeschnitten.",
    answered: "Die Antwort ist da",
    pulled: "Das Modell ist da",
    look: "HEPH öffnen, um sie zu sehen.",
    saved: "Gespeichert",
    broke: "Das Rechenwerk endete und wird neu gestartet.",
    failed: "Das Rechenwerk startet nicht",
};

const CHINESE: Words = Words {
    open: "打开 HEPH",
    quick: "快速提问…",
    cut: "切断：任何内容都不离开本机",
    lend: "共享这台电脑",
    rest: "暂停共享",
    file: "文件",
    chat: "新对话",
    window: "新窗口",
    close: "关闭窗口",
    quit: "退出",
    view: "视图",
    larger: "放大",
    smaller: "缩小",
    usual: "默认大小",
    reload: "重新加载",
    screen: "全屏",
    machine: "电脑",
    stay: "关闭窗口后保留在托盘",
    login: "开机时启动",
    help: "帮助",
    about: "关于 HEPH",
    may_update: "允许更新",
    updates: "检查更新",
    no_updates: "更新：此版本不自行获取更新",
    update_found: "有新版本。退出并重新打开 HEPH 即可使用。",
    update_none: "已是最新版本。",
    update_failed: "无法获知更新情况。",
    update_wrong: "收到的新版本签名不正确，未予采用。",
    update_off: "未检查更新：此处不允许更新，或本机已切断。",
    answered: "回答已完成",
    pulled: "模型已就绪",
    look: "打开 HEPH 查看。",
    saved: "已保存",
    broke: "引擎已终止，正在重新启动。",
    failed: "引擎无法启动",
};

const ARABIC: Words = Words {
    open: "افتح HEPH",
    quick: "سؤال سريع…",
    cut: "قطع: لا شيء يغادر هذا الحاسوب",
    lend: "شارك هذا الحاسوب",
    rest: "أوقف المشاركة مؤقتًا",
    file: "ملف",
    chat: "محادثة جديدة",
    window: "نافذة جديدة",
    close: "أغلق النافذة",
    quit: "إنهاء",
    view: "عرض",
    larger: "أكبر",
    smaller: "أصغر",
    usual: "الحجم المعتاد",
    reload: "أعد التحميل",
    screen: "ملء الشاشة",
    machine: "الحاسوب",
    stay: "ابقَ في شريط النظام عند إغلاق النافذة",
    login: "ابدأ مع الحاسوب",
    help: "مساعدة",
    about: "عن HEPH",
    may_update: "السماح بالتحديثات",
    updates: "ابحث عن تحديثات",
    no_updates: "التحديثات: هذا البناء لا يجلب أيًّا منها",
    update_found: "توجد نسخة جديدة. أنهِ HEPH وافتحه لاستعمالها.",
    update_none: "هذه أحدث نسخة.",
    update_failed: "تعذّر معرفة شيء عن التحديثات.",
    update_wrong: "عُرضت نسخة جديدة توقيعها غير صحيح، ولم تُؤخذ.",
    update_off: "لم يُبحث عن تحديثات: غير مسموح بها هنا، أو هذا الحاسوب مقطوع.",
    answered: "الإجابة جاهزة",
    pulled: "النموذج جاهز",
    look: "افتح HEPH لرؤيتها.",
    saved: "حُفظ",
    broke: "توقف المحرك ويُعاد تشغيله.",
    failed: "المحرك لا يبدأ",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_is_known_however_it_is_written() {
        for (tongue, expected) in [
            ("de", GERMAN.open),
            ("de_AT.UTF-8", GERMAN.open),
            ("zh-Hans", CHINESE.open),
            ("ar_EG", ARABIC.open),
            ("AR", ARABIC.open),
            ("C.UTF-8", ENGLISH.open),
            ("dead", ENGLISH.open),
            ("", ENGLISH.open),
        ] {
            assert_eq!(words(tongue).open, expected, "{tongue}");
        }
    }
}
