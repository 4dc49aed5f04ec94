//! WebSocket peers by `tungstenite`, which shares no code with the server.

use std::net::TcpStream;
use std::thread::JoinHandle;

use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};

use super::DEADLINE;

/// Messages may be as large as the largest test needs, frames likewise.
fn limits() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(256 << 20)).max_frame_size(Some(256 << 20))
}

/// Opens a WebSocket through the server at `address`.
#[track_caller]
pub fn connect(address: &str, path: &str) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(address).expect("the server listens");
    stream.set_nodelay(true).expect("the connection is open");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout is set");
    let request = format!("ws://{address}{path}").into_client_request().expect("an address is a request");
    let (socket, response) = tungstenite::client::client_with_config(request, stream, Some(limits()))
        .unwrap_or_else(|error| panic!("no WebSocket at {path}: {error}"));
    assert_eq!(response.status(), 101);
    socket
}

/// An upstream that sends every message back until its client closes.
pub struct Echo {
    pub address: std::net::SocketAddr,
    over: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    pub fn start() -> Echo {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = over.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if seen.load(std::sync::atomic::Ordering::SeqCst) {
                    return;
                }
                if let Ok(stream) = stream {
                    std::thread::spawn(move || echo(stream));
                }
            }
        });
        Echo { address, over, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.over.store(true, std::sync::atomic::Ordering::SeqCst);
        // Wakes the listener, which then sees that it is over.
        if TcpStream::connect(self.address).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn echo(stream: TcpStream) {
    let Ok(mut socket) = tungstenite::accept_with_config(stream, Some(limits())) else {
        return;
    };
    loop {
        match socket.read() {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                if socket.send(message).is_err() {
                    return;
                }
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}
