//! Documents of 50 MB are searched in bounded memory, whatever they hold.

use heph_engine::retrieval::{Question, Survey};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What searching may take beside the text itself; see `SOURCE_BYTES_MAX`.
const MEMORY_MAX: usize = 200 << 20;

/// Bytes of a large document.
const LARGE: usize = 50_000_000;

/// Fills 50 MB with `part`, plants a name near the end, and searches.
fn search(part: &str) {
    let mut text = part.repeat(LARGE / part.len());
    text.push_str(" Ada Lovelace paid 77 dollars. ");
    text.push_str(&part.repeat(100));
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let question =
        Question::read("Who is Ada Lovelace of the harbour on 3 May 1842, and what is a?").unwrap();
    let survey = Survey::of(&question, &[&text]).unwrap();
    let chosen = survey.choose(&[], 4096, |_| 40);
    let found = chosen
        .spans
        .iter()
        .any(|s| text[s.bytes.clone()].contains("Ada Lovelace"));
    assert!(found, "{part:?}");
    assert!(survey.candidates(4096).len() <= 4096);
    let took = MEMORY.peak_usage() - before;
    assert!(took < MEMORY_MAX, "{part:?} took {} MiB", took >> 20);
}

#[test]
fn fifty_megabytes_take_bounded_memory() {
    for part in [
        "The harbour of the 3 May was quiet in the year of the storm. ",
        "a\n\n",
        "harbour ",
        "\u{1F44B}",
        "May 3 ",
    ] {
        search(part);
    }
}
