//! What waits for the other side, the calls that it has not answered, and the bell that wakes it.
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::calls::{Arrived, Slot};

/// Something that happened on the wire.
pub enum Event {
    /// Somebody who is not known has begun a request: may it be read? Its body is empty, `Server::admit` lets it come.
    Asked(Arrived),
    /// A call has come: a whole request, or the beginning of a stream.
    Call(Arrived),
    /// A stream's next message.
    Message { id: u64, body: Bytes },
    /// A stream's caller has said all.
    HalfClosed { id: u64 },
    /// A stream that was full can take another message.
    Room { id: u64 },
    /// The time of a call that collects is over; it still wants its answer.
    Expired { id: u64 },
    /// The caller has gone: an answer would reach nobody.
    Gone { id: u64 },
    /// After `Server::drain`: every connection is closed.
    Drained,
}

pub struct Inbox {
    state: Mutex<State>,
    bell: UnixStream,
    listener: UnixStream,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    slots: HashMap<u64, Slot>,
    last_id: u64,
    rung: bool,
}

impl Inbox {
    pub fn new() -> io::Result<Self> {
        let (bell, listener) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            state: Mutex::default(),
            bell,
            listener,
        })
    }

    /// The file descriptor that becomes readable when something waits.
    pub fn fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was held leaves nothing half done: each change is one insertion or removal.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a call that wants an answer and says that it has come.
    pub fn arrive(&self, slot: Slot, arrived: impl FnOnce(u64) -> Arrived) -> u64 {
        let asked = matches!(slot, Slot::Asked(_));
        let mut state = self.state();
        state.last_id += 1;
        let id = state.last_id;
        state.slots.insert(id, slot);
        let arrived = arrived(id);
        self.tell(
            state,
            if asked {
                Event::Asked(arrived)
            } else {
                Event::Call(arrived)
            },
        );
        id
    }

    pub fn push(&self, event: Event) {
        self.tell(self.state(), event);
    }

    fn tell(&self, mut state: MutexGuard<'_, State>, event: Event) {
        state.events.push(event);
        let first = !std::mem::replace(&mut state.rung, true);
        drop(state);
        if first {
            // A full bell (WouldBlock) has been heard already.
            let _ = (&self.bell).write(&[1]);
        }
    }

    /// Everything that waits, in order; calls whose callers have gone meanwhile are left out.
    pub fn take(&self) -> Vec<Event> {
        let mut rings = [0; 64];
        while matches!((&self.listener).read(&mut rings), Ok(found) if found > 0) {}
        let mut state = self.state();
        state.rung = false;
        let State { events, slots, .. } = &mut *state;
        events.retain(|event| match event {
            Event::Asked(call) | Event::Call(call) => slots.contains_key(&call.id),
            _ => true,
        });
        std::mem::take(events)
    }

    /// The call's end on this side, for the last word to it. None: it was answered, or its caller has gone.
    pub fn remove(&self, id: u64) -> Option<Slot> {
        self.state().slots.remove(&id)
    }

    /// Several at once, by one lock.
    pub fn remove_all(&self, ids: impl Iterator<Item = u64>) -> Vec<Option<Slot>> {
        let mut state = self.state();
        ids.map(|id| state.slots.remove(&id)).collect()
    }

    /// Looks at a call that goes on.
    pub fn with<T>(&self, id: u64, look: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        self.state().slots.get_mut(&id).map(look)
    }

    /// The caller has gone: if the call was not answered, the other side hears of it.
    pub fn abandon(&self, id: u64) {
        let mut state = self.state();
        if state.slots.remove(&id).is_some() {
            self.tell(state, Event::Gone { id });
        }
    }

    /// Forgets every call: each is told UNAVAILABLE by the loss of its slot.
    pub fn clear(&self) {
        let slots = std::mem::take(&mut self.state().slots);
        drop(slots);
    }
}
