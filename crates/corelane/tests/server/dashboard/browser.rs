//! A headless Chromium, driven by WebDriver (W3C) and, for what that has not, by the DevTools protocol.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use corelane_testkit::wait_until;
use data_encoding::BASE64;
use serde_json::{Value, json};
use ureq::Agent;

/// A browser with one page.
pub(crate) struct Browser {
    driver: Child,
    agent: Agent,
    session: String,
}

impl Browser {
    /// Starts one; `None`, and a line that says so, where none is installed.
    pub(crate) fn start() -> Option<Self> {
        let (Some(chromium), Some(driver)) =
            (tool("CORELANE_TEST_CHROMIUM", "chromium"), tool("CORELANE_TEST_CHROMEDRIVER", "chromedriver"))
        else {
            eprintln!(
                "SKIPPED: no Chromium; CORELANE_TEST_CHROMIUM and CORELANE_TEST_CHROMEDRIVER name it and its driver"
            );
            return None;
        };
        let mut driver = Command::new(driver)
            .args(["--port=0", "--allowed-ips="])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the driver starts");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port =
            lines.find_map(|line| Some(line.split_once("successfully on port ")?.1.trim_end_matches('.').to_owned()));
        let port = port.expect("the driver tells its port");
        // What it writes later has to go somewhere.
        std::thread::spawn(move || lines.for_each(drop));
        let agent = Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
        let base = format!("http://127.0.0.1:{port}/session");
        let mut browser = Self { driver, agent, session: base };
        // As root, in a container and without a screen.
        let arguments =
            ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--disable-gpu"];
        let options = json!({ "binary": chromium, "args": arguments });
        let wanted = json!({ "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } });
        let session = browser.command("", json!({ "capabilities": { "alwaysMatch": wanted } }));
        browser.session = format!("{}/{}", browser.session, session["sessionId"].as_str().unwrap());
        browser.resize(1440, 900, 1.0);
        Some(browser)
    }

    fn command(&self, path: &str, body: Value) -> Value {
        let mut answer = self
            .agent
            .post(format!("{}{path}", self.session))
            .content_type("application/json")
            .send(body.to_string())
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        let text = answer.body_mut().read_to_string().unwrap();
        assert!(answer.status().is_success(), "{path} {body}: {text}");
        serde_json::from_str::<Value>(&text).unwrap()["value"].take()
    }

    fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.command("/goog/cdp/execute", json!({ "cmd": command, "params": parameters }))
    }

    /// Opens a page.
    pub(crate) fn open(&self, url: &str) {
        self.command("/url", json!({ "url": url }));
    }

    /// Runs the body of a function in the page.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.command("/execute/sync", json!({ "script": script, "args": [] }))
    }

    /// The texts of all elements that match, as they are shown.
    pub(crate) fn texts(&self, selector: &str) -> Vec<String> {
        let script = "const text = element => element.checkVisibility() ? element.innerText.trim() : '';\
                      return [...document.querySelectorAll(SELECTOR)].map(text)";
        serde_json::from_value(self.run(&script.replace("SELECTOR", &format!("{selector:?}")))).unwrap()
    }

    /// The text of the one element that matches; empty without one.
    pub(crate) fn text(&self, selector: &str) -> String {
        self.texts(selector).into_iter().next().unwrap_or_default()
    }

    /// The digits of [`text`](Self::text) as a number, whatever groups and unit they have.
    pub(crate) fn number(&self, selector: &str) -> Option<u64> {
        self.text(selector).chars().filter(char::is_ascii_digit).collect::<String>().parse().ok()
    }

    pub(crate) fn is_shown(&self, selector: &str) -> bool {
        !self.text(selector).is_empty()
    }

    pub(crate) fn click(&self, selector: &str) {
        self.run(&format!("document.querySelector({selector:?}).click()"));
    }

    /// Puts a text into a field as typing does.
    pub(crate) fn type_into(&self, selector: &str, text: &str) {
        let element = self.command("/element", json!({ "using": "css selector", "value": selector }));
        let (_, id) = element.as_object().unwrap().iter().next().unwrap();
        let path = format!("/element/{}", id.as_str().unwrap());
        self.command(&format!("{path}/clear"), json!({}));
        self.command(&format!("{path}/value"), json!({ "text": text }));
    }

    pub(crate) fn resize(&self, width: u32, height: u32, scale: f64) {
        let is_mobile = width < 600;
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": is_mobile });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
    }

    pub(crate) fn prefer(&self, feature: &str, value: &str) {
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": [{ "name": feature, "value": value }] }));
    }

    /// The whole page as a picture, once everything stands.
    pub(crate) fn screenshot(&self, file: &Path) {
        let picture = self.devtools("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true,
            "clip": self.run("return { x: 0, y: 0, width: innerWidth, height: document.documentElement.scrollHeight, scale: 1 }") }));
        fs::write(file, BASE64.decode(picture["data"].as_str().unwrap().as_bytes()).unwrap()).unwrap();
        eprintln!("{}", file.display());
    }

    /// What the page's console complained of since the last call.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.command("/se/log", json!({ "type": "browser" }));
        log.as_array().unwrap().iter().map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until `holds`, and shows the page's text when it does not.
    pub(crate) fn wait(&self, what: &str, holds: impl FnMut() -> bool) {
        let shown = Shown(self);
        wait_until(what, holds);
        std::mem::forget(shown);
    }
}

/// Dropped while panicking.
struct Shown<'b>(&'b Browser);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        eprintln!("the page shows:\n{}", self.0.text("body"));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser, which is not the driver's to take along when it is killed.
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// What the environment names, or what the path has.
fn tool(variable: &str, name: &str) -> Option<String> {
    let found = || {
        let answers = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        answers.is_ok_and(|status| status.success()).then(|| name.to_owned())
    };
    let named = env::var(variable).ok().or_else(found)?;
    // The driver wants a path.
    let paths = env::split_paths(&env::var_os("PATH")?).map(|directory| directory.join(&named)).collect::<Vec<_>>();
    paths.into_iter().find(|path| path.is_file()).map(|path| path.to_str().unwrap().to_owned())
}
