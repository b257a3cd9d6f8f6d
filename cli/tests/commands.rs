//! The built binary against a server of the public API in this process.

// Helpers of tests fail by panicking, as tests do.
#![allow(clippy::unwrap_used)]

#[path = "../../client/tests/support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::{FakeServer, Faults};

fn omma(endpoint: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_omma"));
    command.args(arguments).env("OMMA_ENDPOINT", endpoint).env_remove("OMMA_COLLECTION").stdin(Stdio::null());
    command
}

/// Runs to the end, on a thread that may block while the server works.
async fn run(endpoint: &str, arguments: &[&str]) -> Output {
    let mut command = omma(endpoint, arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output.stdout)))
}

fn write_pictures(folder: &Path) {
    std::fs::create_dir_all(folder.join("sub dir")).unwrap();
    for (name, bytes) in
        [("a.jpg", "aaaaaaaaaaaa"), ("b.png", "aaaaaabbbbbb"), ("sub dir/z.webp", "~~~~~~"), ("notes.txt", "text")]
    {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
}

#[test]
fn help_names_commands_and_exit_codes() {
    let output = omma("", &["--help"]).output().unwrap();
    let help = text(&output.stdout);
    for part in [
        "serve",
        "demo",
        "index",
        "search",
        "get",
        "delete",
        "status",
        "collection",
        "cluster",
        "bench",
        "keys",
        "certs",
        "Exit codes",
        "--json",
    ] {
        assert!(help.contains(part), "{part} in {help}");
    }
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(omma("", &["no-such-command"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn without_a_server_every_command_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    write_pictures(folder.path());
    let picture = folder.path().join("a.jpg").display().to_string();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = folder.path().display().to_string();
    for arguments in [&["search", &picture][..], &["status"], &["index", &folder], &["collection", "list"]] {
        let output = omma(&format!("http://{free}"), arguments).output().unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {error}");
        assert!(error.contains("omma serve") && error.contains(&free.to_string()), "{error}");
    }
}

#[test]
fn missing_files_and_bad_endpoints_are_named() {
    let output = omma("http://127.0.0.1:1", &["search", "/no/such/picture.jpg"]).output().unwrap();
    assert!(text(&output.stderr).contains("/no/such/picture.jpg"));
    assert_eq!(omma("http://127.0.0.1:1", &["index", "/no/such/folder"]).output().unwrap().status.code(), Some(2));
    assert_eq!(omma("not an endpoint", &["status"]).output().unwrap().status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_is_indexed_and_the_second_time_nothing_is_sent() {
    let server = FakeServer::start(Faults::default()).await;
    let (endpoint, folder) = (server.endpoint(), tempfile::tempdir().unwrap());
    write_pictures(folder.path());
    let path = folder.path().display().to_string();

    let first = run(&endpoint, &["index", &path, "--json"]).await;
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    let report = json(&first);
    assert_eq!((report["created"].as_u64(), report["no_pictures"].as_u64()), (Some(3), Some(1)));
    assert!(text(&first.stderr).contains("Created the collection photos"));

    let sent = server.state.lock().arrivals.len();
    std::fs::write(folder.path().join("b.png"), "changed").unwrap();
    let second = json(&run(&endpoint, &["index", &path, "--json"]).await);
    assert_eq!((second["replaced"].as_u64(), second["unchanged"].as_u64()), (Some(1), Some(2)));
    assert_eq!(server.state.lock().arrivals.len(), sent + 1, "only the changed picture was sent");

    let got = json(&run(&endpoint, &["get", "sub dir/z.webp", "--json"]).await);
    assert_eq!(got["images"][0]["id"], "sub dir/z.webp");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_picture_is_listed_and_the_others_go_in() {
    let server = FakeServer::start(Faults { break_stream_after: vec![1], ..Faults::default() }).await;
    let (endpoint, folder) = (server.endpoint(), tempfile::tempdir().unwrap());
    write_pictures(folder.path());
    std::fs::write(folder.path().join("bad.gif"), "broken").unwrap();
    let path = folder.path().display().to_string();

    let output = run(&endpoint, &["index", &path]).await;
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("failed: bad.gif:") && said.contains("INVALID_PICTURE"), "{said}");
    assert!(said.contains("3 images sent to photos"), "{said}");
    assert_eq!(server.state.lock().store.count(), 3);
    let kept_going = run(&endpoint, &["index", &path, "--keep-going"]).await;
    assert_eq!(kept_going.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_answer_for_people_and_programs() {
    let server = FakeServer::start(Faults::default()).await;
    let (endpoint, folder) = (server.endpoint(), tempfile::tempdir().unwrap());
    write_pictures(folder.path());
    let path = folder.path().display().to_string();
    run(&endpoint, &["index", &path]).await;
    let picture = folder.path().join("a.jpg").display().to_string();

    let people = run(&endpoint, &["search", &picture, "-k", "2"]).await;
    let lines = text(&people.stdout);
    assert!(lines.lines().nth(1).unwrap().ends_with("1.0000  a.jpg"), "{lines}");
    assert!(lines.contains("Took 0.90 ms"), "{lines}");

    let programs = json(&run(&endpoint, &["search", "--id", "a.jpg", "-k", "1", "--json"]).await);
    assert_eq!(programs["hits"][0]["id"], "b.png");
    assert_eq!(programs["coverage"]["groups_answered"], 3);

    let numbers = folder.path().join("vector.json");
    let vector: Vec<f32> = (0..support::DIMENSION).map(|i| if i == 24 { 1.0 } else { 0.0 }).collect();
    std::fs::write(&numbers, serde_json::to_string(&vector).unwrap()).unwrap();
    let numbers = numbers.display().to_string();
    let by_vector = json(&run(&endpoint, &["search", "--embedding", &numbers, "--min-score", "0.9", "--json"]).await);
    assert_eq!(by_vector["hits"].as_array().unwrap().len(), 2, "{by_vector}");

    let unknown = run(&endpoint, &["search", &picture, "--collection", "nowhere"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("COLLECTION_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_come_from_a_file_and_searches_filter_by_them() {
    let server = FakeServer::start(Faults::default()).await;
    let (endpoint, folder) = (server.endpoint(), tempfile::tempdir().unwrap());
    write_pictures(folder.path());
    let path = folder.path().display().to_string();
    let table = folder.path().join("attributes.csv");
    let table_path = table.display().to_string();
    std::fs::write(&table, "id,colour,price\na.jpg,red,1\nb.png,red,2.5\nnowhere.jpg,red,3\n").unwrap();
    let index = async |more: &[&str]| run(&endpoint, &[&["index", &path, "--json"], more].concat()).await;
    let found = async |filter: &str| {
        let answer = json(&run(&endpoint, &["search", "--id", "sub dir/z.webp", "--where", filter, "--json"]).await);
        let hits = answer["hits"].as_array().unwrap().iter();
        hits.map(|hit| hit["id"].as_str().unwrap().to_owned()).collect::<std::collections::BTreeSet<_>>()
    };

    let first = index(&["--attributes", &table_path]).await;
    assert_eq!(json(&first)["created"], 3, "{}", text(&first.stderr));
    assert!(text(&first.stderr).contains("1 of 3 ids with attributes name no picture"), "{}", text(&first.stderr));
    assert_eq!(found("colour = 'red'").await, ["a.jpg".to_owned(), "b.png".to_owned()].into());
    assert_eq!(found("price = 2.5").await, ["b.png".to_owned()].into());

    // Without the file nothing is lost; with another one only what differs is sent.
    std::fs::write(folder.path().join("b.png"), "other bytes").unwrap();
    assert_eq!(json(&index(&[]).await)["replaced"], 1);
    assert_eq!(found("price = 2.5").await, ["b.png".to_owned()].into());
    std::fs::write(&table, "id,colour,price\na.jpg,blue,1.0\nb.png,red,2.5\n").unwrap();
    let third = json(&index(&["--attributes", &table_path]).await);
    assert_eq!((third["replaced"].as_u64(), third["unchanged"].as_u64()), (Some(1), Some(2)));
    assert_eq!(found("colour = 'blue'").await, ["a.jpg".to_owned()].into());

    std::fs::write(&table, "id,price:integer\na.jpg,cheap\n").unwrap();
    let bad = index(&["--attributes", &table_path]).await;
    assert_eq!(bad.status.code(), Some(2));
    assert!(text(&bad.stderr).contains("line 2, price: \"cheap\" is no Integer"), "{}", text(&bad.stderr));
    let bad = run(&endpoint, &["search", "--id", "a.jpg", "--where", "colour = red and"]).await;
    assert_eq!(bad.status.code(), Some(2));
    assert!(text(&bad.stderr).contains("a text stands in quotes: 'red'"), "{}", text(&bad.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collections_images_and_status_round_trip() {
    let server = FakeServer::start(Faults::default()).await;
    let endpoint = server.endpoint();
    let made = json(
        &run(&endpoint, &["collection", "create", "mine", "--vector-space", "x", "--dimension", "64", "--json"]).await,
    );
    assert_eq!((made["name"].as_str(), made["vector_space"]["dimension"].as_u64()), (Some("mine"), Some(64)));
    assert!(text(&run(&endpoint, &["collection", "list"]).await.stdout).contains("mine"));

    let missing = run(&endpoint, &["get", "nothing", "-c", "mine"]).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("there is no image \"nothing\""));
    assert_eq!(json(&run(&endpoint, &["delete", "nothing", "-c", "mine", "--json"]).await)["deleted_count"], 0);

    let status = json(&run(&endpoint, &["status", "--json"]).await);
    assert_eq!(status["groups"][1]["agreement"], "equal");
    let people = text(&run(&endpoint, &["status"]).await.stdout);
    assert!(people.contains("metadata") && people.contains("127.0.0.1:7711"), "{people}");

    assert_eq!(run(&endpoint, &["collection", "delete", "mine"]).await.status.code(), Some(0));
    assert_eq!(run(&endpoint, &["collection", "delete", "mine"]).await.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_goes_away_is_no_panic() {
    let server = FakeServer::start(Faults::default()).await;
    let endpoint = server.endpoint();
    for n in 0..200 {
        // Enough output to fill a pipe.
        server.state.lock().store.create(&format!("collection-{n:03}-{}", "x".repeat(40)), None).unwrap();
    }
    let ended = tokio::task::spawn_blocking(move || {
        let mut command = omma(&endpoint, &["collection", "list", "--json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        // Reads one line, then closes the pipe.
        BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        child.wait_with_output().unwrap()
    });
    let output = ended.await.unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_drained_and_moves_shown() {
    let server = FakeServer::start(Faults::default()).await;
    let endpoint = server.endpoint();
    let unknown = run(&endpoint, &["cluster", "drain", "nowhere:1"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("nowhere:1"));
    assert!(text(&run(&endpoint, &["cluster", "jobs"]).await.stdout).contains("No replica"));

    let begun = json(&run(&endpoint, &["cluster", "drain", "11", "--no-wait", "--json"]).await);
    assert_eq!((begun["node_id"].as_str(), begun["state"].as_str()), (Some("11"), Some("draining")));
    let jobs = json(&run(&endpoint, &["cluster", "jobs", "--json"]).await);
    let groups: Vec<_> = jobs["moves"].as_array().unwrap().iter().map(|m| m["group_id"].as_u64()).collect();
    assert_eq!(groups, [Some(1), Some(2)], "both pages");
    assert_eq!(
        (jobs["moves"][0]["reason"].as_str(), jobs["moves"][0]["phase"].as_str()),
        (Some("drain"), Some("copying"))
    );
    run(&endpoint, &["cluster", "undrain", "11"]).await;
    assert_eq!(run(&endpoint, &["cluster", "remove", "11"]).await.status.code(), Some(1));

    let drained = run(&endpoint, &["cluster", "drain", "127.0.0.1:7711"]).await;
    assert_eq!(drained.status.code(), Some(0), "{}", text(&drained.stderr));
    assert!(text(&drained.stdout).contains("holds nothing"));
    assert!(text(&drained.stderr).contains("40 of 1,200 images, about 29.0 s left"), "{}", text(&drained.stderr));
    assert_eq!(run(&endpoint, &["cluster", "remove", "11"]).await.status.code(), Some(0));

    run(&endpoint, &["cluster", "pause"]).await;
    assert!(text(&run(&endpoint, &["status"]).await.stdout).contains("paused"));
    run(&endpoint, &["cluster", "resume"]).await;
    assert!(!text(&run(&endpoint, &["status"]).await.stdout).contains("paused"));
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_on_their_way_are_shown() {
    let server = FakeServer::start(Faults::default()).await;
    let endpoint = server.endpoint();
    assert_eq!(run(&endpoint, &["cluster", "groups", "4097", "--no-wait"]).await.status.code(), Some(2));
    let begun = json(&run(&endpoint, &["cluster", "groups", "4", "--no-wait", "--json"]).await);
    assert_eq!((begun["groups"].as_u64(), begun["done"].as_bool()), (Some(4), Some(false)));
    let jobs = json(&run(&endpoint, &["cluster", "jobs", "--json"]).await);
    let job = &jobs["slot_moves"][0];
    assert_eq!((job["to_group_id"].as_u64(), job["slots"].as_u64()), (Some(4), Some(683)));
    assert_eq!((job["phase"].as_str(), job["total"].as_u64()), (Some("copying"), Some(1200)));
    assert!(text(&run(&endpoint, &["cluster", "jobs"]).await.stdout).contains("copying"));
    // The server says that other numbers are wanted.
    assert_eq!(run(&endpoint, &["cluster", "groups", "5"]).await.status.code(), Some(1));
}
