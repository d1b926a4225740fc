//! A page to look at, where OAP's own UI cannot be had: OAP's topology and traces over its GraphQL.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::http;

const PAGE: &str = include_str!("../../oap/view.html");

/// More than any query of the page.
const LARGEST_QUERY_BYTES: u64 = 1 << 20;

/// Serves the page and hands its queries on to OAP, so that the browser sees one origin.
pub(super) struct View {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
}

impl View {
    pub(super) fn start(address: SocketAddr, oap: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        let serving = thread::spawn(move || {
            for stream in listener.incoming() {
                if flag.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                thread::spawn(move || {
                    // A browser that went away is no news.
                    let _ = serve(stream, oap);
                });
            }
        });
        Ok(Self {
            address,
            ended,
            serving: Some(serving),
        })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the loop, which then sees the flag.
        let _ = TcpStream::connect(self.address);
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
    }
}

fn serve(mut stream: TcpStream, oap: SocketAddr) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?.take(LARGEST_QUERY_BYTES));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let request = line.trim_end().to_owned();
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    let (status, kind, body) = if request.starts_with("POST /graphql ") {
        let mut query = String::new();
        reader.take(length).read_to_string(&mut query)?;
        match http::post_json(oap, "/graphql", &query) {
            Ok(answer) => (answer.status, "application/json", answer.body),
            Err(error) => (502, "text/plain", format!("{error:#}")),
        }
    } else if request.starts_with("GET / ") || request.starts_with("GET /?") {
        (200, "text/html", PAGE.to_owned())
    } else {
        (404, "text/plain", "there is only the page / here\n".to_owned())
    };
    let bytes = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} -\r\ncontent-type: {kind}; charset=utf-8\r\ncontent-length: {bytes}\r\nconnection: close\r\n\r\n{body}"
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_served_and_queries_are_handed_on() {
        let oap = TcpListener::bind("127.0.0.1:0").expect("listen");
        let oap_address = oap.local_addr().expect("address");
        let answering = thread::spawn(move || {
            let (mut stream, _) = oap.accept().expect("accept");
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).expect("read");
            stream
                .write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"data\":1}")
                .expect("write");
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let address = http::free_address().expect("port");
        let view = View::start(address, oap_address).expect("start");
        assert!(
            http::get(address, "/")
                .expect("page")
                .body
                .contains("<!doctype html>")
        );
        assert_eq!(http::get(address, "/etc/passwd").expect("page").status, 404);
        assert_eq!(
            http::post_json(address, "/graphql", "{\"query\":1}")
                .expect("query")
                .body,
            "{\"data\":1}"
        );
        assert!(
            answering
                .join()
                .expect("answer")
                .ends_with("\r\n\r\n{\"query\":1}")
        );
        drop(view);
        assert!(http::get(address, "/").is_err());
    }
}
