//! Array parameters and results of PostgreSQL, in its binary form. Docs and types: `services/invochain/_core.pyi`.
//!
//! Source: `array_send` and `array_recv` in PostgreSQL's src/backend/utils/adt/arrayfuncs.c: dimensions, has-nulls, element
//! type, then length and lower bound of each dimension, then each element after its length, -1 for NULL; big endian.
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyList, PyString};

/// Element types, by the numbers that are fixed in PostgreSQL's pg_type.dat.
#[derive(Clone, Copy)]
enum Element {
    Bool = 16,
    Bytea = 17,
    Int8 = 20,
    Int2 = 21,
    Int4 = 23,
    Text = 25,
    Uuid = 2950,
}

const NULL: i32 = -1;

#[pyclass(frozen)]
struct ArrayCodec(Element);

#[pymethods]
impl ArrayCodec {
    #[new]
    fn new(element: &str) -> PyResult<Self> {
        Ok(Self(match element {
            "bool" => Element::Bool,
            "bytea" => Element::Bytea,
            "int8" => Element::Int8,
            "int2" => Element::Int2,
            "int4" => Element::Int4,
            "text" => Element::Text,
            "uuid" => Element::Uuid,
            _ => {
                return Err(PyValueError::new_err(format!(
                    "{element:?} is no element type"
                )))
            }
        }))
    }

    fn encode<'py>(
        &self,
        py: Python<'py>,
        values: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let values = match values.cast::<PyList>() {
            Ok(list) => list.clone(),
            // A text is a sequence too, of its characters; nobody means that.
            Err(_) if values.is_instance_of::<PyString>() || values.is_instance_of::<PyBytes>() => {
                return Err(PyTypeError::new_err("a list is wanted"))
            }
            Err(_) => PyList::new(py, values.try_iter()?.collect::<PyResult<Vec<_>>>()?)?,
        };
        let mut out = Vec::with_capacity(20 + values.len() * self.size_hint());
        let mut nulls = 0;
        put(&mut out, i32::from(!values.is_empty()));
        put(&mut out, nulls);
        put(&mut out, self.0 as i32);
        if !values.is_empty() {
            put(&mut out, length(values.len())?);
            put(&mut out, 1);
        }
        for value in values.iter() {
            if value.is_none() {
                nulls = 1;
                put(&mut out, NULL);
            } else {
                self.put_element(&mut out, &value)?;
            }
        }
        out[4..8].copy_from_slice(&nulls.to_be_bytes());
        Ok(PyBytes::new(py, &out))
    }

    fn decode<'py>(&self, py: Python<'py>, raw: &[u8]) -> PyResult<Bound<'py, PyList>> {
        let mut left = Reader(raw);
        let dimensions = left.int()?;
        let (_nulls, element) = (left.int()?, left.int()?);
        if element != self.0 as i32 || !(0..=1).contains(&dimensions) {
            return Err(PyValueError::new_err(format!(
                "an array of {dimensions} dimensions of type {element}"
            )));
        }
        let list = PyList::empty(py);
        if dimensions == 0 {
            return Ok(list);
        }
        let (count, _lower_bound) = (left.int()?, left.int()?);
        for _ in 0..count {
            match left.int()? {
                NULL => list.append(py.None())?,
                size => {
                    let size = usize::try_from(size).map_err(|_| cut())?;
                    list.append(self.value(py, left.take(size)?)?)?;
                }
            }
        }
        Ok(list)
    }
}

impl ArrayCodec {
    /// About how many bytes an element takes with its length; only a guess for those of any length.
    fn size_hint(&self) -> usize {
        match self.0 {
            Element::Bool => 5,
            Element::Int2 => 6,
            Element::Int4 => 8,
            Element::Int8 => 12,
            Element::Uuid => 20,
            Element::Text | Element::Bytea => 40,
        }
    }

    fn put_element(&self, out: &mut Vec<u8>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        match self.0 {
            Element::Bool => sized(out, &[u8::from(value.cast::<PyBool>()?.is_true())]),
            Element::Int2 => sized(out, &value.extract::<i16>()?.to_be_bytes()),
            Element::Int4 => sized(out, &value.extract::<i32>()?.to_be_bytes()),
            Element::Int8 => sized(out, &value.extract::<i64>()?.to_be_bytes()),
            Element::Text => sized(out, value.extract::<&str>()?.as_bytes()),
            Element::Bytea => sized(out, value.extract::<&[u8]>()?),
            Element::Uuid => match value.extract::<&[u8]>()? {
                id if id.len() == 16 => sized(out, id),
                _ => Err(PyValueError::new_err("an id has 16 bytes")),
            },
        }
    }

    fn value<'py>(&self, py: Python<'py>, raw: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        Ok(match self.0 {
            Element::Bool => PyBool::new(py, fixed::<1>(raw)? != [0])
                .to_owned()
                .into_any(),
            Element::Int2 => i16::from_be_bytes(fixed(raw)?)
                .into_pyobject(py)?
                .into_any(),
            Element::Int4 => i32::from_be_bytes(fixed(raw)?)
                .into_pyobject(py)?
                .into_any(),
            Element::Int8 => i64::from_be_bytes(fixed(raw)?)
                .into_pyobject(py)?
                .into_any(),
            Element::Text => PyString::from_bytes(py, raw)?.into_any(),
            Element::Bytea | Element::Uuid => PyBytes::new(py, raw).into_any(),
        })
    }
}

struct Reader<'r>(&'r [u8]);

impl<'r> Reader<'r> {
    fn take(&mut self, size: usize) -> PyResult<&'r [u8]> {
        let (taken, left) = self.0.split_at_checked(size).ok_or_else(cut)?;
        self.0 = left;
        Ok(taken)
    }

    fn int(&mut self) -> PyResult<i32> {
        Ok(i32::from_be_bytes(fixed(self.take(4)?)?))
    }
}

fn fixed<const N: usize>(raw: &[u8]) -> PyResult<[u8; N]> {
    raw.try_into().map_err(|_| cut())
}

fn cut() -> PyErr {
    PyValueError::new_err("an array that is cut short")
}

fn length(count: usize) -> PyResult<i32> {
    i32::try_from(count).map_err(|_| PyValueError::new_err("an array of so many elements"))
}

fn put(out: &mut Vec<u8>, value: i32) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn sized(out: &mut Vec<u8>, element: &[u8]) -> PyResult<()> {
    put(out, length(element.len())?);
    out.extend_from_slice(element);
    Ok(())
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<ArrayCodec>()
}
