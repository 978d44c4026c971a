//! Realistic log texts of three kinds, with the same texts in every run.
//!
//! Each line has what such lines have: times to the millisecond, addresses, paths
//! with ids, latencies, trace ids that a few lines share. Nothing is repeated that
//! a real service would not repeat.

use std::{
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

/// What a service writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One JSON object a line.
    Json,
    /// As a web server's access log.
    Access,
    /// Errors with their stack traces, between ordinary lines.
    Traces,
}

/// Writes lines of one kind.
#[derive(Debug)]
pub(crate) struct Texts {
    kind: Kind,
    random: u64,
    /// Milliseconds since the day began.
    clock: u64,
    /// When yesterday began, in nanoseconds since 1970: retention leaves such lines.
    day: i64,
    /// When the engine stamped the last line.
    stamp: i64,
    /// Lines that are written before the next one is made, the last first.
    ready: Vec<String>,
}

/// A day, in nanoseconds.
const DAY: i64 = 86_400_000_000_000;
const PATHS: [&str; 14] = [
    "/api/v1/orders/{}",
    "/api/v1/orders/{}/items",
    "/api/v1/users/{}",
    "/api/v1/users/{}/sessions",
    "/api/v1/carts/{}",
    "/api/v1/search?q={}&page=2",
    "/api/v1/products/{}",
    "/api/v1/products/{}/reviews",
    "/static/js/app.3f9c1b.js",
    "/static/css/main.a81d0e.css",
    "/images/product-{}.webp",
    "/login",
    "/healthz",
    "/",
];
const AGENTS: [&str; 9] = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15",
    "Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "curl/8.5.0",
    "kube-probe/1.30",
    "python-requests/2.32.3",
];
const PARTS: [&str; 8] =
    ["billing", "orders", "inventory", "gateway", "session", "search", "mailer", "reports"];
const CLASSES: [&str; 12] = [
    "Repository",
    "Service",
    "Controller",
    "Mapper",
    "Validator",
    "Client",
    "Cache",
    "Scheduler",
    "Handler",
    "Filter",
    "Interceptor",
    "Factory",
];
const METHODS: [&str; 12] = [
    "findById",
    "save",
    "process",
    "invoke",
    "doFilter",
    "handle",
    "execute",
    "apply",
    "load",
    "refresh",
    "lambda$run$0",
    "call",
];
const ERRORS: [&str; 6] = [
    "java.sql.SQLTransientConnectionException: HikariPool-1 - Connection is not available, request timed out after {}ms.",
    "java.util.NoSuchElementException: no order with id {}",
    "com.acme.shop.PaymentDeclinedException: card issuer declined payment {}",
    "java.net.SocketTimeoutException: Read timed out after {} ms",
    "java.lang.IllegalStateException: cart {} is closed already",
    "org.springframework.dao.DuplicateKeyException: key (id)=({}) already exists",
];

impl Texts {
    /// Lines of one kind, from the first.
    pub(crate) fn new(kind: Kind) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let day = (i64::try_from(now).unwrap_or(i64::MAX) / DAY - 1) * DAY;
        Self {
            kind,
            random: 0x5eed ^ kind as u64,
            clock: 36_000_000,
            day,
            stamp: day,
            ready: Vec::new(),
        }
    }

    /// The next line, without newline, and when the engine stamps it.
    pub(crate) fn line(&mut self) -> (i64, String) {
        while self.ready.is_empty() {
            match self.kind {
                Kind::Json => self.request(),
                Kind::Access => self.access(),
                Kind::Traces => self.trace(),
            }
            self.ready.reverse();
        }
        // Lines that a service writes at once come a few microseconds apart.
        let (apart, later) = (self.below(60_000), self.below(1_000_000));
        let [clock, apart, later] = [self.clock, 4_000 + apart, later].map(u64::cast_signed);
        self.stamp = (self.stamp + apart).max(self.day + clock * 1_000_000 + later);
        (self.stamp, self.ready.pop().unwrap_or_default())
    }

    /// One request of a service: two to four lines with one trace id.
    fn request(&mut self) {
        let part = self.one_of(&PARTS);
        let trace = format!("{:016x}{:016x}", self.next(), self.next());
        let (user, path, from) = (self.usually_low(50_000), self.path(), self.address());
        let method = self.method();
        for at in 0..2 + self.below(3) {
            self.tick(9);
            let time = self.time();
            let mut line = format!(r#"{{"ts":"2026-03-04T{time}Z","level":""#);
            let _ = match at {
                0 => write!(
                    line,
                    r#"info","logger":"{part}.http","msg":"request started","method":"{method}","path":"{path}","remote":"{from}""#
                ),
                1 => write!(
                    line,
                    r#"info","logger":"{part}.http","msg":"request completed","method":"{method}","path":"{path}","status":{},"duration_ms":{}.{:02},"bytes":{}"#,
                    self.status(),
                    self.usually_low(400),
                    self.below(100),
                    self.usually_low(60_000),
                ),
                2 => write!(
                    line,
                    r#"debug","logger":"{part}.db","msg":"query","rows":{},"took_us":{}"#,
                    self.usually_low(100),
                    self.usually_low(9_000),
                ),
                _ => write!(
                    line,
                    r#"warn","logger":"{part}.cache","msg":"cache miss, falling back to the database","key":"user:{user}:cart","attempt":{}"#,
                    1 + self.below(3),
                ),
            };
            let _ = write!(line, r#","user_id":{user},"trace_id":"{trace}","service":"{part}"}}"#);
            self.ready.push(line);
        }
    }

    fn access(&mut self) {
        self.tick(40);
        let (from, method, path, status) =
            (self.address(), self.method(), self.path(), self.status());
        let (bytes, agent, time) = (self.usually_low(60_000), self.one_of(&AGENTS), self.time());
        let referer = match self.below(3) {
            0 => format!("https://shop.example.com{}", self.path()),
            _ => "-".to_owned(),
        };
        let took = (self.usually_low(900), self.below(1000));
        self.ready.push(format!(
            r#"{from} - - [04/Mar/2026:{} +0000] "{method} {path} HTTP/1.1" {status} {bytes} "{referer}" "{agent}" {}.{:03}"#,
            &time[..8], took.0, took.1,
        ));
    }

    fn trace(&mut self) {
        for _ in 0..self.below(4) {
            let (time, thread) = (self.time_after(30), 1 + self.below(16));
            let (part, ms) = (self.one_of(&PARTS), self.usually_low(500));
            let id = self.usually_low(900_000);
            self.ready.push(format!(
                "2026-03-04 {time}  INFO 1 --- [nio-8080-exec-{thread}] c.acme.shop.{part}.Controller : handled order {id} in {ms} ms"
            ));
        }
        let (time, thread) = (self.time_after(200), 1 + self.below(16));
        let part = self.one_of(&PARTS);
        self.ready.push(format!(
            "2026-03-04 {time} ERROR 1 --- [nio-8080-exec-{thread}] c.acme.shop.{part}.ErrorHandler : request failed"
        ));
        let id = self.usually_low(900_000).to_string();
        let error = self.one_of(&ERRORS).replace("{}", &id);
        self.ready.push(error);
        let depth = 12 + self.below(20);
        self.frames(depth);
        if self.below(2) == 0 {
            let id = self.usually_low(900_000).to_string();
            let error = self.one_of(&ERRORS).replace("{}", &id);
            self.ready.push(format!("Caused by: {error}"));
            let depth = 5 + self.below(8);
            self.frames(depth);
            let more = 10 + self.below(50);
            self.ready.push(format!("\t... {more} common frames omitted"));
        }
    }

    /// A service has a few hundred places in its code that its traces go through.
    fn frames(&mut self, count: u64) {
        // Which way a call goes decides most of what lies below it.
        let mut place = self.usually_low(60);
        for _ in 0..count {
            let of = |list: &[&'static str], by: u64| list[(place / by) as usize % list.len()];
            let (part, class, method) = (of(&PARTS, 7), of(&CLASSES, 3), of(&METHODS, 1));
            let line = 20 + (place * 37) % 400;
            self.ready.push(format!(
                "\tat com.acme.shop.{part}.{class}Impl.{method}({class}Impl.java:{line}) ~[app.jar!/:4.2.1]"
            ));
            place = if self.below(8) == 0 { self.below(300) } else { (place * 5 + 11) % 300 };
        }
    }

    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Low numbers are much more frequent, as ids, latencies and sizes are.
    fn usually_low(&mut self, limit: u64) -> u64 {
        let most = self.below(limit).max(1);
        let most = self.below(most).max(1);
        self.below(most)
    }

    fn one_of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        let most = 1 + self.below(list.len() as u64);
        list[usize::try_from(self.below(most)).unwrap_or(0)]
    }

    fn method(&mut self) -> &'static str {
        ["GET", "GET", "GET", "GET", "GET", "POST", "POST", "PUT", "DELETE"]
            [usize::try_from(self.below(9)).unwrap_or(0)]
    }

    fn status(&mut self) -> u64 {
        [200, 200, 200, 200, 200, 200, 200, 201, 204, 301, 304, 400, 401, 404, 404, 500]
            [usize::try_from(self.below(16)).unwrap_or(0)]
    }

    fn path(&mut self) -> String {
        let id = self.usually_low(900_000).to_string();
        self.one_of(&PATHS).replace("{}", &id)
    }

    /// Of a few thousand clients, some come often.
    fn address(&mut self) -> String {
        let client = self.usually_low(5_000);
        format!("10.{}.{}.{}", client % 4, client * 7 % 256, client * 13 % 251)
    }

    fn tick(&mut self, most: u64) {
        self.clock += self.below(most);
    }

    fn time_after(&mut self, most: u64) -> String {
        self.tick(most);
        self.time()
    }

    fn time(&self) -> String {
        let (seconds, millis) = (self.clock / 1000, self.clock % 1000);
        let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
        format!("{hour:02}:{minute:02}:{:02}.{millis:03}", seconds % 60)
    }
}
