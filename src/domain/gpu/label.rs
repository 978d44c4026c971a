//! What a container has of GPUs, as its label tells: `UUID:MiB:percent:MODE`, with
//! commas between. So the engine alone is enough to know every booking.

use super::Booking;
use crate::domain::container::{Container, labels};

const ALONE: &str = "exclusive";
const SHARED: &str = "shared";
/// Shared, and kept within what it booked.
const ENFORCED: &str = "enforced";

/// The text of the label.
pub fn write(bookings: &[Booking]) -> String {
    let one = |booking: &Booking| {
        let Booking { device, memory_mb, compute, exclusive, enforced, .. } = booking;
        let mode = match (exclusive, enforced) {
            (true, _) => ALONE,
            (false, true) => ENFORCED,
            (false, false) => SHARED,
        };
        format!("{device}:{memory_mb}:{compute}:{mode}")
    };
    bookings.iter().map(one).collect::<Vec<_>>().join(",")
}

/// The bookings of a container, running or not. What cannot be read was not written
/// by us.
pub fn read(container: &Container) -> Vec<Booking> {
    let text = container.labels.get(labels::GPUS).map_or("", String::as_str);
    let one = |entry: &str| {
        let mut parts = entry.rsplitn(4, ':');
        let mode = parts.next()?;
        let (exclusive, enforced) = (mode == ALONE, mode == ENFORCED);
        let compute = parts.next()?.parse().ok()?;
        let memory_mb = parts.next()?.parse().ok()?;
        let device = parts.next().filter(|device| !device.is_empty())?.to_owned();
        let (holder, container_id) = (container.name().to_owned(), container.id.clone());
        Some(Booking { holder, container_id, device, memory_mb, compute, exclusive, enforced })
    };
    text.split(',').filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::container::tests::named;

    #[test]
    fn a_booking_survives_its_label() {
        let booking = |device: &str, memory_mb, compute, exclusive| Booking {
            holder: "llm".into(),
            container_id: "id".into(),
            device: device.into(),
            memory_mb,
            compute,
            exclusive,
            enforced: false,
        };
        let enforced = Booking { enforced: true, ..booking("GPU-3", 1, 1, false) };
        let all =
            [booking("GPU-1", 0, 0, true), booking("MIG-GPU-2/1/0", 4096, 50, false), enforced];
        let mut container = named("llm");
        container.id = "id".into();
        assert_eq!(read(&container), []);
        container.labels.insert(labels::GPUS.to_owned(), write(&all));
        assert_eq!(read(&container), all);
        for damaged in ["", "GPU-1", "GPU-1:x:0:shared", ":1:1:shared", ",,"] {
            container.labels.insert(labels::GPUS.to_owned(), damaged.to_owned());
            assert_eq!(read(&container), [], "{damaged}");
        }
    }
}
