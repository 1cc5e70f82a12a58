//! The store as its user sees it, in a folder of its own.

use super::*;
use tempfile::TempDir;

struct Desk {
    outside: TempDir,
    store: Store,
    _inside: TempDir,
}

fn desk() -> Desk {
    let (outside, inside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    Desk {
        outside,
        store: Store::new(inside.path().join("models")),
        _inside: inside,
    }
}

/// A sound GGUF file without anything in it, told from others by its tail.
fn gguf(tail: &[u8]) -> Vec<u8> {
    let counts = [3u32.to_le_bytes().as_slice(), &[0; 16]].concat();
    [b"GGUF", &counts[..], tail].concat()
}

/// A sound safetensors file without anything in it.
const SAFETENSORS: &[u8] = b"\x02\0\0\0\0\0\0\0{}";

impl Desk {
    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.outside.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn import(&self, path: &Path, name: &str) -> Result<Record, StoreError> {
        self.store
            .import(path, &ModelName::new(name).unwrap(), &Cancel::new(), &mut |_| {})
    }

    fn names(&self) -> Vec<String> {
        self.store
            .list()
            .unwrap()
            .into_iter()
            .map(|r| r.unwrap().name.to_string())
            .collect()
    }
}

#[test]
fn an_imported_model_is_listed_found_and_removed() {
    let desk = desk();
    assert!(desk.names().is_empty());
    let path = desk.file("tiny.gguf", &gguf(b"more"));
    let record = desk.import(&path, "tiny").unwrap();
    assert_eq!(
        record.files[0].blake3,
        blake3::hash(&gguf(b"more")).to_hex().to_string()
    );
    assert_eq!(desk.names(), ["tiny"]);
    let Found::Stored(_, found) = desk.store.find("tiny").unwrap() else {
        panic!("not stored")
    };
    assert_eq!(*found, record);
    desk.store.remove("tiny").unwrap();
    assert!(desk.names().is_empty());
    assert!(matches!(
        desk.store.remove("tiny"),
        Err(StoreError::Unknown { .. })
    ));
}

#[test]
fn equal_files_have_equal_content_hashes() {
    let desk = desk();
    let path = desk.file("a.gguf", &gguf(b"1"));
    let (one, two) = (
        desk.import(&path, "one").unwrap(),
        desk.import(&path, "two").unwrap(),
    );
    assert_eq!(one.content, two.content);
    let other = desk
        .import(&desk.file("other/a.gguf", &gguf(b"2")), "three")
        .unwrap();
    assert_ne!(one.content, other.content);
}

#[test]
fn a_taken_name_is_refused_and_the_first_model_stays() {
    let desk = desk();
    desk.import(&desk.file("a.gguf", &gguf(b"1")), "m").unwrap();
    let error = desk.import(&desk.file("b.gguf", &gguf(b"2")), "m").unwrap_err();
    assert!(matches!(error, StoreError::Taken(_)));
    assert_eq!(
        desk.store.list().unwrap()[0].as_ref().unwrap().files[0].name,
        "a.gguf"
    );
}

#[test]
fn bundled_models_can_be_found_but_not_replaced_or_removed() {
    let desk = desk();
    assert!(matches!(desk.store.find("heph-story"), Ok(Found::Bundled(_))));
    let path = desk.file("a.gguf", &gguf(b""));
    assert!(matches!(
        desk.import(&path, "heph-story"),
        Err(StoreError::PartOfTheProgram(_))
    ));
    assert!(matches!(
        desk.store.remove("heph-story"),
        Err(StoreError::PartOfTheProgram(_))
    ));
}

#[test]
fn all_parts_come_in_order_or_not_at_all() {
    let desk = desk();
    let second = desk.file("big-00002-of-00002.gguf", &gguf(b"2"));
    let Err(StoreError::PartMissing { missing, parts, .. }) = desk.import(&second, "big") else {
        panic!("a missing part went unnoticed")
    };
    assert_eq!((missing, parts), (1, 2));
    assert!(desk.names().is_empty());
    desk.file("big-00001-of-00002.gguf", &gguf(b"1"));
    let record = desk.import(&second, "big").unwrap();
    let names: Vec<_> = record.files.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["big-00001-of-00002.gguf", "big-00002-of-00002.gguf"]);
}

#[test]
fn a_hugging_face_folder_comes_without_what_is_no_model() {
    let desk = desk();
    let config = desk.file("hf/config.json", b"{}");
    let folder = config.parent().unwrap();
    assert!(matches!(
        desk.import(folder, "hf"),
        Err(StoreError::NotAModel { .. })
    ));
    desk.file("hf/model.safetensors", SAFETENSORS);
    desk.file("hf/README.md", b"words");
    let record = desk.import(folder, "hf").unwrap();
    let names: Vec<_> = record.files.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["config.json", "model.safetensors"]);
    assert_eq!(record.format, Format::HuggingFace);
}

#[test]
fn how_rows_become_a_vector_comes_with_a_folder() {
    let desk = desk();
    let config = desk.file("hf/config.json", b"{}");
    desk.file("hf/model.safetensors", SAFETENSORS);
    desk.file("hf/1_Pooling/config.json", b"{\"pooling_mode_cls_token\":true}");
    desk.file("hf/2_Dense/config.json", b"{}");
    let folder = config.parent().unwrap();
    let record = desk.import(folder, "hf").unwrap();
    let names: Vec<_> = record.files.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, [POOLING, "config.json", "model.safetensors"]);
    let stored = desk.store.find("hf").unwrap();
    let Found::Stored(at, _) = &stored else {
        panic!("a model of the store")
    };
    assert!(
        fs::read_to_string(at.join(POOLING))
            .unwrap()
            .contains("cls_token")
    );
    let given = Found::Path(find_files(folder).unwrap());
    assert_eq!(stored.model_hash().unwrap(), given.model_hash().unwrap());
}

#[test]
fn a_stopped_import_leaves_nothing() {
    let desk = desk();
    let path = desk.file("a.gguf", &vec![7; 3 * STEP_BYTES]);
    let cancel = Cancel::new();
    let name = ModelName::new("a").unwrap();
    let stop_early = &mut |p: Progress| {
        if p.done >= STEP_BYTES as u64 {
            cancel.raise();
        }
    };
    let error = desk.store.import(&path, &name, &cancel, stop_early).unwrap_err();
    assert!(matches!(error, StoreError::Stopped));
    assert!(desk.names().is_empty());
    assert!(!desk.store.folder().join(INCOMING).join("a").exists());
}

#[test]
fn a_file_that_is_no_model_is_not_taken_and_leaves_nothing() {
    let desk = desk();
    for content in [&b"<html>there is no such page</html>"[..], b"", &[7; 10_000]] {
        let error = desk.import(&desk.file("junk.gguf", content), "junk").unwrap_err();
        assert!(matches!(error, StoreError::Open(_)), "{error}");
        assert!(error.to_string().contains("junk.gguf"), "{error}");
    }
    assert!(desk.names().is_empty());
    assert_eq!(
        fs::read_dir(desk.store.folder().join(INCOMING)).unwrap().count(),
        0
    );
    let absent = desk.import(Path::new("no/such.gguf"), "a").unwrap_err();
    assert!(matches!(absent, StoreError::Absent { .. }), "{absent}");
}

#[test]
fn what_an_import_left_is_thrown_away_and_what_a_download_brought_is_kept_until_it_is_removed() {
    let desk = desk();
    let incoming = desk.store.folder().join(INCOMING);
    for folder in [".ended.import", "pulled"] {
        fs::create_dir_all(incoming.join(folder)).unwrap();
        fs::write(incoming.join(folder).join("half.gguf"), "half").unwrap();
    }
    let name = ModelName::new("busy").unwrap();
    let busy = desk.store.stage_as(&name, Errand::Import).unwrap();
    fs::write(busy.folder().join("half.gguf"), "half").unwrap();
    desk.import(&desk.file("a.gguf", &gguf(b"")), "other").unwrap();
    assert!(!incoming.join(".ended.import").exists());
    assert!(busy.folder().join("half.gguf").exists());
    assert!(incoming.join("pulled/half.gguf").exists());
    assert!(matches!(desk.store.remove("busy"), Err(StoreError::Busy(_))));
    drop(busy);
    for name in ["busy", "pulled"] {
        desk.store.remove(name).unwrap();
        assert!(matches!(desk.store.remove(name), Err(StoreError::Unknown { .. })));
    }
    assert_eq!(fs::read_dir(incoming).unwrap().count(), 0);
}

#[test]
fn a_lock_goes_with_its_holder_and_one_without_a_name_is_none() {
    let desk = desk();
    let name = ModelName::new("a").unwrap();
    let first = Lock::take(&desk.store, &name).unwrap();
    assert!(matches!(Lock::take(&desk.store, &name), Err(StoreError::Busy(_))));
    drop(first);
    assert_eq!(
        fs::read_dir(desk.store.folder().join(INCOMING)).unwrap().count(),
        0
    );
    let nameless = Lock::take(&desk.store, &name).unwrap();
    fs::remove_file(desk.store.folder().join(INCOMING).join(".a.lock")).unwrap();
    let second = Lock::take(&desk.store, &name).unwrap();
    drop(nameless);
    assert!(matches!(Lock::take(&desk.store, &name), Err(StoreError::Busy(_))));
    drop(second);
    // A name that ends as the file of a lock does meets no lock.
    let odd = desk.store.stage(&ModelName::new("a.lock").unwrap()).unwrap();
    let plain = desk.store.stage(&name).unwrap();
    drop((odd, plain));
    assert_eq!(
        fs::read_dir(desk.store.folder().join(INCOMING)).unwrap().count(),
        0
    );
}

#[test]
fn two_at_once_on_one_name_are_refused() {
    let desk = desk();
    let name = ModelName::new("a").unwrap();
    let _first = desk.store.stage(&name).unwrap();
    assert!(matches!(desk.store.stage(&name), Err(StoreError::Busy(_))));
}

#[test]
fn a_damaged_or_hostile_record_is_an_error_of_its_own() {
    let desk = desk();
    desk.import(&desk.file("good.gguf", &gguf(b"")), "good").unwrap();
    desk.import(&desk.file("bad.gguf", &gguf(b"")), "bad").unwrap();
    let record = desk.store.folder().join("bad").join(RECORD);
    fs::write(&record, "{").unwrap();
    let list = desk.store.list().unwrap();
    assert!(matches!(list[0], Err(StoreError::Record { .. })));
    assert!(list[1].is_ok());
    let good = fs::read_to_string(desk.store.folder().join("good").join(RECORD)).unwrap();
    fs::write(&record, good.replace("good.gguf", "../good/good.gguf")).unwrap();
    assert!(matches!(desk.store.find("bad"), Err(StoreError::Record { .. })));
}

#[test]
fn an_unknown_name_suggests_the_nearest() {
    let error = desk().store.find("heph-stori").unwrap_err();
    assert_eq!(error.hint().unwrap(), "did you mean \"heph-story\"?");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_named() {
    let desk = desk();
    let path = desk.file("a.gguf", &gguf(b""));
    let staging = desk.store.stage(&ModelName::new("a").unwrap()).unwrap();
    let full = staging.folder().join("a.gguf");
    std::os::unix::fs::symlink("/dev/full", &full).unwrap();
    let error = copy(&path, &full, "a.gguf".into(), &Cancel::new(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
}

#[test]
fn hostile_records_are_errors_or_harmless() {
    let desk = desk();
    desk.import(&desk.file("a.gguf", &gguf(b"1")), "m").unwrap();
    let path = desk.store.folder().join("m").join(RECORD);
    let sound = fs::read_to_string(&path).unwrap();
    let bad = [
        String::new(),
        "{".to_owned(),
        "[".repeat(200_000),
        sound.replace("a.gguf", "../a.gguf"),
        sound.replace("a.gguf", "a\\u0000.gguf"),
        sound.replace("\"bytes\": 25", "\"bytes\": -25"),
        sound.replace("\"name\": \"m\"", "\"name\": \"../m\""),
        format!("{sound}{}", " ".repeat(RECORD_BYTES_MAX as usize)) + "x",
    ];
    for text in bad {
        fs::write(&path, &text).unwrap();
        let start = &text[..text.len().min(200)];
        match desk.store.find("m") {
            Err(StoreError::Record { .. }) => {}
            other => assert!(text.len() as u64 > RECORD_BYTES_MAX, "{start}: {other:?}"),
        }
        assert_eq!(desk.store.list().unwrap().len(), 1, "{start}");
    }
    let file = |name: &str| FileRecord {
        name: name.to_owned(),
        bytes: u64::MAX,
        blake3: String::new(),
        sha256: None,
    };
    let mut record: Record = serde_json::from_str(&sound).unwrap();
    record.files = vec![file("a"), file("b")];
    assert_eq!(record.bytes(), u64::MAX);
}
