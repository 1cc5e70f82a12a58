//! What went into a stage: kept so that another node can be brought to where the lost one stood.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use heph_types::Hidden;

/// Bytes of rows that stay in memory for one stage; older ones go to a file without a name.
pub(crate) const MEMORY_BYTES_MAX: usize = 64 << 20;

/// Bytes of rows that one stage may have on disk: 131,072 positions of 8,192 numbers.
pub(crate) const DISK_BYTES_MAX: u64 = 4 << 30;

/// What a history may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HistoryLimits {
    /// Bytes of rows in memory; older ones go to disk.
    pub(crate) memory: usize,
    /// Bytes of rows on disk.
    pub(crate) disk: u64,
}

/// The rows that went into a stage, from position 0 on. Bounded by the context; beyond a limit the older part is on disk.
pub(crate) struct History {
    width: usize,
    limits: HistoryLimits,
    /// Rows on disk: the first ones.
    spilled: usize,
    /// The rows after them.
    rows: Vec<f32>,
    file: Option<File>,
}

impl History {
    /// An empty history of rows of `width` numbers.
    pub(crate) fn new(width: usize, limits: HistoryLimits) -> Self {
        Self {
            width,
            limits,
            spilled: 0,
            rows: Vec::new(),
            file: None,
        }
    }

    /// Positions held.
    pub(crate) fn len(&self) -> usize {
        self.spilled + self.rows.len().checked_div(self.width).unwrap_or(0)
    }

    /// Appends whole rows.
    pub(crate) fn push(&mut self, rows: &[f32]) -> io::Result<()> {
        self.rows.extend_from_slice(rows);
        if self.rows.len() * size_of::<f32>() > self.limits.memory {
            self.spill()?;
        }
        Ok(())
    }

    /// Forgets everything from position `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.rows.truncate(len.saturating_sub(self.spilled) * self.width);
        self.spilled = self.spilled.min(len);
    }

    /// The rows `from..to`.
    pub(crate) fn read(&mut self, from: usize, to: usize) -> io::Result<Hidden> {
        let width = self.width;
        let on_disk = from.min(self.spilled)..to.min(self.spilled);
        let mut rows = Vec::with_capacity((to - from) * width);
        if !on_disk.is_empty() {
            let mut bytes = vec![0; on_disk.len() * self.row_bytes()];
            let place = self.seek(on_disk.start)?;
            place.read_exact(&mut bytes)?;
            rows.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)));
        }
        let [from, to] = [from, to].map(|at| at.saturating_sub(self.spilled) * width);
        rows.extend_from_slice(&self.rows[from..to]);
        Ok(Hidden { width, rows })
    }

    fn spill(&mut self) -> io::Result<()> {
        let (needed, most) = ((self.len() * self.row_bytes()) as u64, self.limits.disk);
        if needed > most {
            let why = format!("it takes {needed} bytes, and {most} may lie on disk");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        let bytes: Vec<u8> = self.rows.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.seek(self.spilled)?.write_all(&bytes)?;
        self.spilled = self.len();
        self.rows.clear();
        Ok(())
    }

    /// The file, at the place of a row.
    fn seek(&mut self, row: usize) -> io::Result<&mut File> {
        let offset = (row * self.row_bytes()) as u64;
        if self.file.is_none() {
            self.file = Some(tempfile::tempfile()?);
        }
        let file = self
            .file
            .as_mut()
            .unwrap_or_else(|| unreachable!("it was just made"));
        file.seek(SeekFrom::Start(offset))?;
        Ok(file)
    }

    fn row_bytes(&self) -> usize {
        self.width * size_of::<f32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_from_memory_and_from_disk() {
        let row = |n: usize| [n as f32, -(n as f32)];
        for memory in [0, 20, 1 << 20] {
            let limits = HistoryLimits { memory, disk: 1000 };
            let mut history = History::new(2, limits);
            (0..10).for_each(|n| history.push(&row(n)).unwrap());
            history.truncate(7);
            (7..12).for_each(|n| history.push(&row(n + 100)).unwrap());
            assert_eq!(history.len(), 12);
            let wanted: Vec<f32> = (3..12)
                .flat_map(|n| row(if n < 7 { n } else { n + 100 }))
                .collect();
            assert_eq!(
                history.read(3, 12).unwrap().rows,
                wanted,
                "{memory} bytes in memory"
            );
            assert!(history.read(12, 12).unwrap().rows.is_empty());
        }
    }

    #[test]
    fn a_disk_is_not_filled_without_end() {
        let limits = HistoryLimits { memory: 0, disk: 80 };
        let mut history = History::new(2, limits);
        (0..10).for_each(|n| history.push(&[n as f32; 2]).unwrap());
        let error = history.push(&[10.0; 2]).unwrap_err().to_string();
        assert_eq!(error, "it takes 88 bytes, and 80 may lie on disk");
    }
}
