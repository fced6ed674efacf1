//! Apache Parquet, written as a stream of small row groups. Every column is optional; text is as stored.

use std::io::Write;
use std::mem;
use std::ops::Range;
use std::sync::Arc;

use ::parquet::basic::{Compression, ConvertedType, LogicalType, Repetition, TimeUnit, Type as Physical};
use ::parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int32Type, Int64Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::types::{Type as Schema, TypePtr};

use super::row::Cell;
use super::{Output, Writer, output_failed};
use crate::billing::exports::{Column, Type};
use crate::error::Error;

/// Rows of a group. A whole group is in memory.
const GROUP_ROWS: usize = 5_000;
/// A group ends early when its texts take this many bytes.
const GROUP_BYTES: usize = 4 << 20;

pub(super) struct Parquet<'a> {
    file: SerializedFileWriter<Output<'a>>,
    buffers: Vec<Buffer>,
    rows: usize,
}

/// The values of one column in a row group; `defined` says for each row whether there is one.
#[derive(Default)]
struct Buffer {
    defined: Vec<i16>,
    values: Values,
}

enum Values {
    Numbers(Vec<i64>),
    Days(Vec<i32>),
    Flags(Vec<bool>),
    Texts(Vec<u8>, Vec<Range<usize>>),
}

impl Default for Values {
    fn default() -> Self {
        Self::Numbers(Vec::new())
    }
}

impl<'a> Parquet<'a> {
    pub(super) fn new(out: Output<'a>, name: &str, columns: &[Column]) -> Result<Self, Error> {
        let properties = WriterProperties::builder()
            .set_created_by("coulomb".to_owned())
            .set_compression(Compression::SNAPPY)
            .build();
        let schema = schema(name, columns).map_err(output_failed)?;
        let file = SerializedFileWriter::new(out, schema, Arc::new(properties)).map_err(output_failed)?;
        Ok(Self { file, buffers: columns.iter().map(|column| Buffer::of(column.holds)).collect(), rows: 0 })
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let mut group = self.file.next_row_group()?;
        for buffer in &mut self.buffers {
            let mut column = group
                .next_column()?
                .ok_or_else(|| ParquetError::General("a column is missing".to_owned()))?;
            let defined = Some(buffer.defined.as_slice());
            match &mut buffer.values {
                Values::Numbers(numbers) => {
                    column.typed::<Int64Type>().write_batch(numbers, defined, None)?;
                    numbers.clear();
                }
                Values::Days(days) => {
                    column.typed::<Int32Type>().write_batch(days, defined, None)?;
                    days.clear();
                }
                Values::Flags(flags) => {
                    column.typed::<BoolType>().write_batch(flags, defined, None)?;
                    flags.clear();
                }
                Values::Texts(bytes, ranges) => {
                    let all = ByteArray::from(mem::take(bytes));
                    let texts: Vec<ByteArray> =
                        ranges.drain(..).map(|range| all.slice(range.start, range.len())).collect();
                    column.typed::<ByteArrayType>().write_batch(&texts, defined, None)?;
                }
            }
            column.close()?;
            buffer.defined.clear();
        }
        group.close()?;
        self.rows = 0;
        Ok(())
    }
}

impl Writer for Parquet<'_> {
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Error> {
        for (buffer, cell) in self.buffers.iter_mut().zip(cells) {
            buffer.add(cell)?;
        }
        self.rows += 1;
        let heavy = || self.buffers.iter().map(Buffer::weight).sum::<usize>() >= GROUP_BYTES;
        if self.rows >= GROUP_ROWS || (self.rows.is_multiple_of(256) && heavy()) {
            self.write_group().map_err(output_failed)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), Error> {
        if self.rows > 0 {
            self.write_group().map_err(output_failed)?;
        }
        self.file.finish().map_err(output_failed)?;
        self.file.inner_mut().flush().map_err(output_failed)
    }
}

impl Buffer {
    fn of(holds: Type) -> Self {
        let values = match holds {
            Type::Integer | Type::Amount | Type::Time => Values::Numbers(Vec::new()),
            Type::Day => Values::Days(Vec::new()),
            Type::Boolean => Values::Flags(Vec::new()),
            Type::Text | Type::Major | Type::Decimal | Type::Json => Values::Texts(Vec::new(), Vec::new()),
        };
        Self { defined: Vec::new(), values }
    }

    fn add(&mut self, cell: &Cell<'_>) -> Result<(), Error> {
        self.defined.push(i16::from(!matches!(cell, Cell::Null)));
        match (&mut self.values, *cell) {
            (_, Cell::Null) => {}
            (Values::Numbers(numbers), Cell::Integer(number) | Cell::Time(number)) => numbers.push(number),
            (Values::Days(days), Cell::Day(day)) => days.push(day),
            (Values::Flags(flags), Cell::Boolean(flag)) => flags.push(flag),
            (Values::Texts(bytes, ranges), Cell::Text(text) | Cell::Decimal(text) | Cell::Json(text)) => {
                ranges.push(bytes.len()..bytes.len() + text.len());
                bytes.extend_from_slice(text.as_bytes());
            }
            (Values::Texts(bytes, ranges), Cell::Major(major)) => {
                let start = bytes.len();
                write!(bytes, "{major}").map_err(output_failed)?;
                ranges.push(start..bytes.len());
            }
            (_, cell) => return Err(Error::Internal(format!("{cell:?} is in a column of another type"))),
        }
        Ok(())
    }

    fn weight(&self) -> usize {
        match &self.values {
            Values::Texts(bytes, _) => bytes.len(),
            Values::Numbers(_) | Values::Days(_) | Values::Flags(_) => 0,
        }
    }
}

fn schema(name: &str, columns: &[Column]) -> Result<TypePtr, ParquetError> {
    let fields = columns.iter().map(|column| field(column).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(Schema::group_type_builder(name).with_fields(fields).build()?))
}

fn field(column: &Column) -> Result<Schema, ParquetError> {
    let (physical, logical) = match column.holds {
        Type::Text | Type::Major | Type::Decimal => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        Type::Json => (Physical::BYTE_ARRAY, Some(LogicalType::Json)),
        Type::Integer | Type::Amount => (Physical::INT64, None),
        Type::Day => (Physical::INT32, Some(LogicalType::Date)),
        Type::Boolean => (Physical::BOOLEAN, None),
        Type::Time => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))),
    };
    Schema::primitive_type_builder(column.name, physical)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(logical)
        .with_converted_type(ConvertedType::NONE)
        .build()
}
