//! What a program that breaks leaves: where it happened, and nothing that somebody wrote.
//!
//! A panic's message may hold what the program was working on: whoever cuts a text inside of a letter is shown that text. It would
//! end in a terminal, a log, or a report of a crash that is sent away. Words that stand in the program are told; words that were
//! made while it ran are not.

use std::fmt::Write;
use std::panic::PanicHookInfo;

/// From now on a panic of this process tells where it happened and no words that were made while it ran.
pub fn tell_no_words() {
    std::panic::set_hook(Box::new(|info| {
        use std::io::Write;
        // Where standard error is closed nobody wants to know.
        let _ = writeln!(std::io::stderr().lock(), "{}", told(info));
    }));
}

/// From now on the system keeps no picture of this process's memory when it breaks: all that was asked stands there, and some systems
/// send it to whoever made the program.
///
/// One byte and not none: where the picture goes to a program, Linux looks at the bound for this number alone.
#[cfg(target_os = "linux")]
pub fn leave_no_memory() {
    let none = rustix::process::Rlimit {
        current: Some(1),
        maximum: Some(1),
    };
    // Whoever may have less than a byte leaves nothing already.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
}

/// Elsewhere it does what its system does.
#[cfg(not(target_os = "linux"))]
pub fn leave_no_memory() {}

fn told(info: &PanicHookInfo) -> String {
    let mut told = "heph broke".to_owned();
    if let Some(place) = info.location() {
        // Writing to a text does not fail.
        let _ = write!(told, " at {}:{}", place.file(), place.line());
    }
    // A text that stands in the program has no prompt in it.
    match info.payload().downcast_ref::<&'static str>() {
        Some(words) => told + ": " + words,
        None => told + "; what it said of it is not shown, since that may hold what was asked",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_panic_tells_no_prompt() {
        static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(|info| HEARD.lock().unwrap().push(told(info))));
        let prompt = "My card is 4111 1111 1111 1111, señor";
        let cut = prompt.find('ñ').unwrap() + 1;
        let _ = std::panic::catch_unwind(|| prompt[cut..].len());
        let _ = std::panic::catch_unwind(|| panic!("this stands in the program"));
        std::panic::set_hook(before);
        let heard = HEARD.lock().unwrap();
        let said = |words: &str| heard.iter().any(|told| told.ends_with(words));
        assert!(
            said("may hold what was asked") && said(": this stands in the program"),
            "{heard:?}"
        );
        assert!(
            !heard
                .iter()
                .any(|told| told.contains("4111") || told.contains("card")),
            "{heard:?}"
        );
    }
}
