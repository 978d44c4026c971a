//! `run` with assets: bars for a person, a line for a script, one answer for JSON.

use super::{Ended, PROGRAM, cli, end, of};
use crate::{
    assets::{
        lenient,
        source::{Source, head, say},
    },
    support::{Service, docker, image, unique},
};

/// A source that takes about a second for a MiB.
async fn slow() -> Source {
    Source::start(|asked, mut stream| async move {
        let (_, head) = head(&asked, 1 << 20, "\"a\"");
        say(&mut stream, head.as_bytes()).await;
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(125));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for _ in 0..8 {
            ticks.tick().await;
            say(&mut stream, &[b'x'; 128 << 10]).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_assets_shows_bars_to_a_person_and_a_line_to_a_script() {
    let service = Service::with(lenient).await.synced().await;
    let source = slow().await;
    let name = unique("cli");
    let asset = format!("MODEL={},path=/opt/m", source.url("/a.bin"));
    // `script` runs it under a terminal of its own, of a known size.
    let mut person = of(&service, "script");
    let image = image();
    let line = format!(
        "stty cols 100 rows 30; exec {PROGRAM} run --name {name} --asset '{asset}' {image} sleep 1000"
    );
    person.env("TERM", "xterm").args(["-qec", &line, "/dev/null"]);
    let Ended { code, out, err } = end(person).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    for part in ["MODEL", "/1.00 MiB", "/s", "\u{1b}["] {
        assert!(out.contains(part), "{part} in {out:?}");
    }
    let (_, last) = out.rsplit_once(&format!("{name} ")).expect("the answer");
    assert!(last.trim_end().ends_with("created"), "nothing is drawn over it: {out:?}");
    assert_eq!(
        docker(&["exec", &name, "sh", "-c", "echo $MODEL; wc -c < $MODEL"]),
        "/opt/m\n1048576"
    );

    let args = ["run", "--name", &name, "--asset", &asset, image, "sleep", "1000"];
    assert!(cli(&service, &args).await.done().trim_end().ends_with("unchanged"));
    let other = slow().await;
    let asset = format!("MODEL={}", other.url("/a.bin"));
    let args = ["run", "--name", &name, "--asset", &asset, image, "sleep", "1000"];
    let script = cli(&service, &args).await;
    assert_eq!((script.code, script.err.as_str()), (Some(0), "MODEL: 1.00 MiB fetched\n"));
    assert!(script.out.trim_end().ends_with("replaced (assets)"), "{script:?}");
    let json = cli(&service, &[&["--json"][..], &args].concat()).await.json();
    assert!(json.contains("RUN_ACTION_UNCHANGED"), "{json}");

    let listed = cli(&service, &["assets", "--url", &other.url("/a.bin")]).await.done().to_owned();
    let row = listed.lines().nth(1).expect("one asset").to_owned();
    assert!(row.contains("1.00 MiB") && row.contains(&name), "{listed}");
    let id = row.split(' ').next().expect("its id").to_owned();
    assert_eq!(cli(&service, &["assets", "rm", &id]).await.code, Some(6), "a container has it");
    cli(&service, &["rm", "--force", &name]).await.done();
    assert_eq!(cli(&service, &["assets", "rm", &id]).await.done().trim_end(), id);
    assert_eq!(cli(&service, &["assets", "rm", &id]).await.code, Some(3), "it is gone");
}
