//! The door over tonic for Python. Docs and types: `services/invochain/_core.pyi`.
use std::time::{Duration, Instant};

use bytes::Bytes;
use invochain_transport::{
    Answer, Arrived, Code, Event, Kind, Limits, MetadataMap, Method, Pem, Server, Status,
};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};

// First member of what `take` gives; the same numbers are in chassis/tonic_door.py.
const CALL: u8 = 0;
const MESSAGE: u8 = 1;
const HALF_CLOSED: u8 = 2;
const ROOM: u8 = 3;
const EXPIRED: u8 = 4;
const GONE: u8 = 5;
const DRAINED: u8 = 6;
const ASKED: u8 = 7;

#[pyclass(frozen)]
struct Transport {
    server: Server,
    /// Names of the metadata that are read, made once.
    read: Vec<Py<PyString>>,
}

type Text = Vec<(String, String)>;
/// Certificates, key, client authorities; all PEM.
type Tls = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

#[pymethods]
impl Transport {
    #[new]
    #[pyo3(signature = (address, methods, read, shown_by, limits, *, reuse_port, tls=None))]
    #[allow(clippy::too_many_arguments)] // named in Python
    fn new(
        py: Python<'_>,
        address: &str,
        methods: Vec<(String, String, bool, usize)>,
        read: Vec<String>,
        shown_by: Vec<String>,
        limits: &Bound<'_, PyDict>,
        reuse_port: bool,
        tls: Option<Tls>,
    ) -> PyResult<Self> {
        let limits = read_limits(limits)?;
        let methods = methods
            .into_iter()
            .map(|(path, kind, open, message_bytes_max)| {
                let kind = match kind.as_str() {
                    "unary" => Kind::Unary,
                    "collects" => Kind::Collects,
                    "stream" => Kind::Stream,
                    _ => return Err(PyValueError::new_err(format!("{kind:?} is no kind"))),
                };
                Ok(Method {
                    path,
                    kind,
                    open,
                    message_bytes_max,
                })
            })
            .collect::<PyResult<_>>()?;
        let pem = tls.map(|(certificates, key, client_authorities)| Pem {
            certificates,
            key,
            client_authorities,
        });
        let server = py
            .detach(|| {
                let pem = pem.as_ref();
                Server::start(address, reuse_port, methods, &read, &shown_by, limits, pem)
            })
            .map_err(|error| PyOSError::new_err(error.to_string()))?;
        let read = read
            .iter()
            .map(|name| PyString::intern(py, name).unbind())
            .collect();
        Ok(Self { server, read })
    }

    #[getter]
    fn port(&self) -> u16 {
        self.server.port()
    }

    fn fileno(&self) -> i32 {
        self.server.fd()
    }

    fn take<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let now = Instant::now();
        let events = self.server.take();
        let list = PyList::empty(py);
        for event in events {
            let told = match event {
                Event::Asked(call) => self.arrived(py, ASKED, call, now)?,
                Event::Call(call) => self.arrived(py, CALL, call, now)?,
                Event::Message { id, body } => {
                    (MESSAGE, id, PyBytes::new(py, &body)).into_pyobject(py)?
                }
                Event::HalfClosed { id } => (HALF_CLOSED, id).into_pyobject(py)?,
                Event::Room { id } => (ROOM, id).into_pyobject(py)?,
                Event::Expired { id } => (EXPIRED, id).into_pyobject(py)?,
                Event::Gone { id } => (GONE, id).into_pyobject(py)?,
                Event::Drained => (DRAINED, 0).into_pyobject(py)?,
            };
            list.append(told)?;
        }
        Ok(list)
    }

    fn answer(&self, answers: Vec<(u64, Text, Bound<'_, PyBytes>)>) {
        let answers = answers.into_iter().map(|(id, initial, body)| {
            // Metadata that cannot be sent are that call's trouble, not its neighbours'.
            let (initial, result) = match metadata(initial) {
                Ok(initial) => (initial, Ok(Bytes::copy_from_slice(body.as_bytes()))),
                Err(error) => (MetadataMap::new(), Err(Status::internal(error.to_string()))),
            };
            (id, Answer { initial, result })
        });
        self.server.answer(answers.collect());
    }

    fn refuse(
        &self,
        id: u64,
        code: i32,
        message: String,
        details: &[u8],
        trailing: Text,
    ) -> PyResult<()> {
        let details = Bytes::copy_from_slice(details);
        let status = Status::with_details_and_metadata(
            Code::from_i32(code),
            message,
            details,
            metadata(trailing)?,
        );
        let answer = Answer {
            initial: MetadataMap::new(),
            result: Err(status),
        };
        self.server.answer(vec![(id, answer)]);
        Ok(())
    }

    fn admit(&self, id: u64) {
        self.server.admit(id);
    }

    fn open_stream(&self, id: u64, initial: Text) -> PyResult<()> {
        self.server.open_stream(id, metadata(initial)?);
        Ok(())
    }

    fn send(&self, id: u64, message: &[u8]) -> bool {
        self.server.send(id, Bytes::copy_from_slice(message))
    }

    fn consumed(&self, id: u64, size: usize) {
        self.server.consumed(id, size);
    }

    fn end_stream(&self, id: u64) {
        self.server.end(id, None);
    }

    fn drain(&self, within_s: f64) -> PyResult<()> {
        self.server.drain(seconds_of(within_s)?);
        Ok(())
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.server.close());
    }
}

impl Transport {
    fn arrived<'py>(
        &self,
        py: Python<'py>,
        kind: u8,
        call: Arrived,
        now: Instant,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let metadata = PyDict::new(py);
        for (position, value) in &call.metadata {
            metadata.set_item(self.read[*position].bind(py), value)?;
        }
        let remaining_us = call.deadline.map(|deadline| {
            // A deadline that has passed leaves nothing; that there is none is another thing.
            i64::try_from(deadline.saturating_duration_since(now).as_micros()).unwrap_or(i64::MAX)
        });
        let body = PyBytes::new(py, &call.body);
        (
            kind,
            call.id,
            call.method,
            metadata,
            &*call.peer,
            remaining_us,
            body,
        )
            .into_pyobject(py)
    }
}

fn metadata(pairs: Text) -> PyResult<MetadataMap> {
    let mut headers = http::HeaderMap::with_capacity(pairs.len() + 1);
    for (name, value) in pairs {
        let wrong = || PyValueError::new_err(format!("{name:?} or its value is no metadata"));
        let key = http::HeaderName::try_from(&name).map_err(|_| wrong())?;
        let value = http::HeaderValue::try_from(value).map_err(|_| wrong())?;
        headers.append(key, value);
    }
    Ok(MetadataMap::from_headers(headers))
}

fn seconds_of(value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value).map_err(|error| PyValueError::new_err(error.to_string()))
}

fn read_limits(limits: &Bound<'_, PyDict>) -> PyResult<Limits> {
    let wanted = |name: &str| -> PyResult<Bound<'_, PyAny>> {
        let missing = || PyValueError::new_err(format!("limits: {name} is missing"));
        limits.get_item(name)?.ok_or_else(missing)
    };
    let seconds = |name: &str| -> PyResult<Duration> { seconds_of(wanted(name)?.extract()?) };
    Ok(Limits {
        response_bytes_max: wanted("response_bytes_max")?.extract()?,
        metadata_bytes_max: wanted("metadata_bytes_max")?.extract()?,
        streams_max: wanted("streams_max")?.extract()?,
        request_within: seconds("request_within_s")?,
        connection_age: seconds("connection_age_s")?,
        connection_grace: seconds("connection_grace_s")?,
    })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Transport>()
}
