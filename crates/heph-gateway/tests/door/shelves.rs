//! Folders as knowledge, asked for over HTTP.

use serde_json::{Value, json};

use crate::knocking::door;

#[test]
fn a_folder_is_asked_about_and_its_citations_open() {
    let door = door();
    let folder = door.home.path().join("notes");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(
        folder.join("boats.txt"),
        "The ferry to Elba leaves at 7:40 from pier four.\n",
    )
    .unwrap();
    let (status, text) = door.post("/heph/v1/knowledge", &json!({ "path": folder }));
    assert_eq!(status, 201, "{text}");
    let shelf: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(shelf["label"], "nothing", "private unless said otherwise");
    assert_eq!(door.post("/heph/v1/knowledge", &json!({ "path": folder })).0, 409);
    let path = format!("/heph/v1/knowledge/{}", shelf["id"].as_str().unwrap());
    let marked = |path: &str, label: &str| {
        let raw = door.raw("PUT", path, &json!({ "label": label }).to_string(), &[]);
        raw.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    let label = || {
        door.json(
            "/heph/v1/knowledge/search",
            &json!({ "question": "When does the ferry leave?" }),
        )["label"]
            .clone()
    };
    assert_eq!((marked(&path, "own"), label()), (200, json!("own")));
    assert_eq!((marked(&path, "nothing"), label()), (200, json!("nothing")));
    assert_eq!(
        (
            marked(&path, "everything"),
            marked("/heph/v1/knowledge/none", "own"),
            label()
        ),
        (400, 404, json!("nothing"))
    );
    assert_eq!(
        door.post("/heph/v1/knowledge", &json!({ "path": "/no/such/folder" }))
            .0,
        400
    );
    let found = door.json(
        "/heph/v1/knowledge/search",
        &json!({ "question": "When does the ferry to Elba leave?" }),
    );
    assert_eq!(found["label"], "nothing");
    let cited = &found["citations"][0];
    let id = shelf["id"].as_str().unwrap();
    let path = format!(
        "/heph/v1/knowledge/{id}/span?document={}&start={}&end={}",
        cited["document"].as_str().unwrap(),
        cited["start"],
        cited["end"]
    );
    let (status, text) = door.get_with(&path, &[]);
    let span: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &span["text"]), (200, &cited["text"]), "{text}");
    let (status, text) = door.get_with(
        &format!("/heph/v1/folders?path={}", door.home.path().display()),
        &[],
    );
    assert!(status == 200 && text.contains("\"notes\""), "{text}");
    for (path, expected) in [
        (
            format!("/heph/v1/knowledge/{id}/span?document=boats.txt&start=0&end=9999999"),
            400,
        ),
        (
            format!("/heph/v1/knowledge/{id}/span?document=none.txt&start=0&end=1"),
            404,
        ),
        (
            format!("/heph/v1/knowledge/{id}/span?document=..%2F..%2Fetc%2Fpasswd&start=0&end=1"),
            404,
        ),
        (
            format!("/heph/v1/knowledge/{id}/span?document=boats.txt&start=-1&end=1"),
            400,
        ),
        ("/heph/v1/folders?path=relative".to_owned(), 400),
    ] {
        assert_eq!(door.get_with(&path, &[]).0, expected, "{path}");
    }
    assert!(
        door.raw("DELETE", &format!("/heph/v1/knowledge/{id}"), "", &[])
            .starts_with("HTTP/1.0 204")
    );
    let (status, _) = door.post("/heph/v1/knowledge/search", &json!({ "question": "When?" }));
    assert_eq!(status, 400, "no shelf is left");
}
