//! The live dashboard in a real browser: it shows the numbers of `/metrics`, goes with them, and outlives the server.

mod browser;
mod fleet;

use std::env;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use corelane_testkit::frames::{self, header, invalid_frames};
use corelane_testkit::{Metrics, Peer, Server, host};
use serde_json::json;

use self::browser::Browser;
use self::fleet::Fleet;

use crate::BINARY;

/// A server with two shards where the machine has two cores.
fn start(flags: &[&str]) -> Server {
    let cores = host::cores_for(2).or_else(|| host::cores_for(1)).unwrap();
    Server::start(BINARY, &[&["--cores", cores.as_str()], flags].concat())
}

fn page_of(server: &Server) -> String {
    format!("http://{}/", server.control)
}

/// Opens the page, which then has numbers.
fn open(browser: &Browser, url: &str) {
    browser.open(url);
    browser.wait("the page is live", || browser.text("#status") == "live");
}

/// Connections that each did something: valid events, every kind of refused frame, a header that is too large.
fn send_some_of_everything(server: &Server) -> Vec<Peer> {
    let mut peers: Vec<Peer> = (0..5).map(|_| server.connect()).collect();
    for (number, peer) in peers.iter_mut().enumerate() {
        let id = format!("device-{number}");
        (0..200).for_each(|time| peer.send(&frames::event(&id, 1 + time)));
        peer.commit();
    }
    for invalid in invalid_frames() {
        peers[0].send(&invalid.bytes);
    }
    peers[0].commit();
    let mut greedy = server.connect();
    greedy.send(&header(70_000));
    while greedy.try_reply().is_some() {}
    peers
}

/// Whether every number on the page is that of the scrape.
fn shows(browser: &Browser, metrics: &Metrics) -> bool {
    let total = |key: &str| browser.number(&format!("[data-total={key}]"));
    let counters = ["frames_accepted", "received_bytes", "points", "connections_accepted", "series_evicted"];
    counters.iter().all(|key| total(key) == Some(metrics.count(&format!("corelane_{key}_total"), &[])))
        && total("frames_rejected") == Some(metrics.rejected())
        && browser.number("[data-rate=connections]") == Some(metrics.connections())
        && browser.number("[data-rate=series]") == Some(metrics.count("corelane_series", &[]))
        && metrics
            .label_values("corelane_frames_rejected_total", "reason")
            .iter()
            .all(|reason| browser.number(&format!("[data-rejected={reason}]")) == Some(metrics.rejected_for(reason)))
        && metrics.label_values("corelane_connections", "shard").iter().all(|shard| {
            let connections = metrics.count("corelane_connections", &[("shard", shard)]);
            browser.number(&format!("[data-shard='{shard}'] [data-figure=connections]")) == Some(connections)
        })
}

#[test]
fn the_page_shows_the_numbers_of_the_metrics_and_goes_with_them() {
    let Some(browser) = Browser::start() else { return };
    let server = start(&["--max-series", "5000"]);
    open(&browser, &page_of(&server));
    assert!(browser.is_shown("#sensors-empty") && browser.is_shown("#events-empty"), "nothing has happened yet");

    let mut peers = send_some_of_everything(&server);
    let metrics = server.metrics();
    assert!(metrics.rejected() > 0 && metrics.security_events("oversize") == 1 && metrics.connections() == 5);
    browser.wait("the numbers of the first load", || shows(&browser, &metrics));
    assert_eq!(browser.texts(".lane h3").len(), server.shards);
    browser.wait("the event and whose it is", || {
        let event = browser.text("#events li");
        event.contains("oversize") && event.contains("127.0.0.1:") && event.contains("declared 70000 payload bytes")
    });
    browser.wait("sensors", || browser.texts("#sensors tr:not([hidden])").len() == 12);
    assert!(!browser.is_shown("#sensors-empty"));

    // While frames come, rates and pictures show it.
    browser.wait("a rate", || {
        (0..500).for_each(|time| peers[1].send(&frames::event("device-1", 1_000 + time)));
        browser.number("[data-rate=frames]") > Some(100)
    });
    let metrics = server.metrics();
    browser.wait("the numbers of the second load", || shows(&browser, &metrics));
    let drawn = "return [...document.querySelectorAll('.lane canvas')].every(canvas => canvas.getContext('2d')\
                 .getImageData(0, 0, canvas.width, canvas.height).data.some(byte => byte > 0))";
    assert_eq!(browser.run(drawn), json!(true), "every lane has its picture");

    let pointed = "const canvas = document.querySelector('.lane canvas'), box = canvas.getBoundingClientRect();\
                   const before = canvas.toDataURL(), [clientX, clientY] = [box.right - 2, box.top + 9];\
                   canvas.dispatchEvent(new PointerEvent('pointermove', { bubbles: true, clientX, clientY }));\
                   return canvas.toDataURL() !== before";
    assert_eq!(browser.run(pointed), json!(true), "a moment that is pointed at is told");

    // And the settings are those in use.
    let setting = |key: &str| browser.text(&format!("[data-name={key}]"));
    assert_eq!((setting("listen"), setting("max_series")), (server.listen.to_string(), "5000".into()));
    assert_eq!(setting("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(browser.complaints(), [""; 0], "the page's policy lets all of it run, and nothing failed");
}

#[test]
fn sensors_can_be_searched_and_sorted() {
    let Some(browser) = Browser::start() else { return };
    let server = start(&[]);
    let mut peer = server.connect();
    (1..50).for_each(|time| peer.send(&frames::small_event("old and busy", "rpm", time, 1.0)));
    peer.send(&frames::small_event("new and calm", "level", 1_700_000_000_000_000_000, 2.5));
    peer.send(&frames::small_event("third", "Level of the tank", 60, 7.25));
    peer.commit();
    open(&browser, &page_of(&server));
    let sources = || browser.texts("#sensors tr:not([hidden]) td:first-child");
    browser.wait("the busiest first", || sources().first().is_some_and(|id| id == "old and busy"));
    browser.click("[data-sort=last_timestamp]");
    browser.wait("the newest first", || sources() == ["new and calm", "third", "old and busy"]);
    // A question for sensors that fails is told beside them, and does not mean that the server is gone.
    browser.run(
        "window.answered = fetch; window.fetch = (path, ...more) => path.includes('sensors') \
         ? Promise.resolve(new Response('{}', { status: 503 })) : window.answered(path, ...more)",
    );
    browser.wait("a word of it", || browser.text("#sensors-hint") == "no answer, asking again");
    assert_eq!((browser.text("#status").as_str(), sources().len()), ("live", 3));
    browser.run("window.fetch = window.answered");
    browser.wait("sensors again", || !browser.is_shown("#sensors-hint"));
    browser.type_into("#search", "LEVEL");
    browser.wait("those with the word in either name", || sources() == ["new and calm", "third"]);
    browser.type_into("#search", "nobody");
    browser.wait("a word of its own for nothing found", || browser.text("#sensors-empty").contains("“nobody”"));
    assert!(sources().is_empty());
}

#[test]
fn names_that_peers_choose_stay_text() {
    let Some(browser) = Browser::start() else { return };
    let server = start(&[]);
    let id = "<img src=x onerror=alert(1)>";
    let sensor = "</td><script>document.title='owned'</script>\u{202e}";
    let mut peer = server.connect();
    peer.send(&frames::small_event(id, sensor, 1, 1.0));
    peer.commit();
    open(&browser, &page_of(&server));
    browser.wait("the name as it is", || browser.text("#sensors td:first-child") == id);
    let told = browser.run("return document.querySelector('#sensors td.sensor').textContent");
    assert_eq!(told, json!(sensor));
    assert_eq!(
        browser.run("return document.images.length + document.scripts.length"),
        json!(1),
        "the page's own script"
    );
    assert!(browser.run("return document.title").as_str().unwrap().starts_with("corelane"));
    assert_eq!(browser.complaints(), [""; 0]);
}

/// A server whose control port stays the same when it is started again.
fn start_at(control: SocketAddr) -> Server {
    let cores = host::cores_for(1).unwrap();
    let mut command = corelane_testkit::server::command(BINARY);
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--cores", &cores]);
    Server::spawn(command.args(["--control", &control.to_string()]))
}

#[test]
fn the_page_tells_that_the_server_is_gone_and_goes_on_with_the_next() {
    let Some(browser) = Browser::start() else { return };
    let control = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = start_at(control);
    let mut peer = server.connect();
    (1..3_000).for_each(|time| peer.send(&frames::event("first", time)));
    peer.commit();
    open(&browser, &page_of(&server));
    browser.wait("the first server's frames", || browser.number("[data-total=frames_accepted]") == Some(2_999));
    // Every text that a rate ever has from here on.
    browser.run(
        "window.seen = []; new MutationObserver(() => document.querySelectorAll('b, .figures dd')\
         .forEach(number => window.seen.push(number.textContent))).observe(document.body, \
         { subtree: true, childList: true, characterData: true })",
    );
    assert_eq!(server.terminate().status.code(), Some(0));
    browser.wait("a word that nobody answers, and since when", || {
        let notice = browser.text("#notice");
        notice.starts_with("No numbers from the server since ") && browser.text("#status") == "no answer"
    });
    let grey = "return Number(getComputedStyle(document.getElementById('main')).opacity) < 0.6";
    browser.wait("old numbers that look old", || browser.run(grey) == json!(true));
    assert_eq!(browser.number("[data-total=frames_accepted]"), Some(2_999), "and stay to be read");

    let server = start_at(control);
    let mut peer = server.connect();
    (1..11).for_each(|time| peer.send(&frames::event("second", time)));
    peer.commit();
    browser.wait("the second server's frames", || {
        browser.text("#status") == "live" && browser.number("[data-total=frames_accepted]") == Some(10)
    });
    assert!(!browser.is_shown("#notice"));
    browser.wait("its sensors alone", || browser.text("#sensors td:first-child") == "second");
    browser.wait("rates again", || browser.text("[data-rate=frames]") == "0");
    let seen: Vec<String> = serde_json::from_value(browser.run("return window.seen")).unwrap();
    let wrong: Vec<_> = seen.iter().filter(|text| text.contains(['-', '−']) || text.contains("NaN")).collect();
    assert!(wrong.is_empty(), "no rate is negative or no number: {wrong:?}");
}

#[test]
fn the_page_asks_seldom_and_not_at_all_while_nobody_looks() {
    let Some(browser) = Browser::start() else { return };
    let server = start(&[]);
    open(&browser, &page_of(&server));
    let asked = || browser.run("return performance.getEntriesByType('resource').length").as_u64().unwrap();
    let (before, window) = (asked(), Duration::from_secs(6));
    sleep(window);
    let count = asked() - before;
    assert!((4..=9).contains(&count), "{count} questions in {window:?}");
    let hide = |hidden: bool| {
        let script = "Object.defineProperty(document, 'hidden', { configurable: true, get: () => HIDDEN });\
                      document.dispatchEvent(new Event('visibilitychange'))";
        browser.run(&script.replace("HIDDEN", &hidden.to_string()));
    };
    hide(true);
    sleep(Duration::from_millis(500));
    let before = asked();
    sleep(Duration::from_secs(3));
    assert_eq!(asked(), before, "nobody looks");
    hide(false);
    browser.wait("questions again", || asked() > before + 1);
    browser.click("#pause");
    sleep(Duration::from_millis(500));
    let before = asked();
    sleep(Duration::from_secs(3));
    assert_eq!((asked(), browser.text("#status").as_str()), (before, "paused"));
}

#[test]
fn a_protected_page_works_with_the_password_in_its_address() {
    let Some(browser) = Browser::start() else { return };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "s3cret\n").unwrap();
    let server = start(&["--control-token-file", file.path().to_str().unwrap()]);
    assert_eq!(server.get("/").status, 401);
    // What browsers keep of a password that somebody types, too: the questions of the page carry it.
    open(&browser, &format!("http://anybody:s3cret@{}/", server.control));
    assert_eq!(browser.number("[data-rate=connections]"), Some(0));
}

/// Also draws the pictures of the documentation: `CORELANE_SCREENSHOT_SECONDS=200` gives lanes that are full.
#[test]
fn nothing_moves_under_load_on_any_screen() {
    let Some(browser) = Browser::start() else { return };
    let seconds = env::var("CORELANE_SCREENSHOT_SECONDS").map_or(8, |text| text.parse().unwrap());
    let server = start(&fleet::FLAGS);
    let fleet = Fleet::start(&server);
    browser.resize(1440, 900, 1.0);
    open(&browser, &page_of(&server));
    browser.wait("sensors", || browser.texts("#sensors tr:not([hidden])").len() == 12);
    browser.run(
        "window.moved = []; new PerformanceObserver(list => list.getEntries().forEach(entry => \
         window.moved.push([entry.value, entry.sources.map(source => source.node?.parentNode?.outerHTML)])))\
         .observe({ type: 'layout-shift' })",
    );
    sleep(Duration::from_secs(seconds));
    assert_eq!(browser.run("return window.moved"), json!([]), "numbers change, boxes stay");

    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for (name, width, height, scale, scheme) in [
        ("dashboard-light", 1280, 900, 1.5, "light"),
        ("dashboard-dark", 1280, 900, 1.5, "dark"),
        ("dashboard-phone", 390, 844, 2.0, "light"),
    ] {
        browser.resize(width, height, scale);
        browser.prefer("prefers-color-scheme", scheme);
        sleep(Duration::from_millis(1_500));
        let overflow = browser.run("return document.documentElement.scrollWidth - innerWidth");
        assert_eq!(overflow, json!(0), "{name} fits its width");
        browser.screenshot(&directory.join(format!("{name}.png")));
    }
    assert_eq!(browser.complaints(), [""; 0]);
    drop(fleet);
}
