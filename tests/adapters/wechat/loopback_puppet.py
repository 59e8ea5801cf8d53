"""A WeChat puppet service on the loopback: a real gRPC server that speaks wechaty's protocol, with the faults that real ones have."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any, Self

from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.protocol import H2Protocol
from grpclib.server import Server, Stream

from adapters.wechat.wechaty_compat import import_wechaty

import_wechaty()
from wechaty_grpc.wechaty import puppet as pb  # noqa: E402

BOT = "wxid_bot"
_NAMES = ("Start", "Stop", "Ding", "Version", "MessagePayload", "RoomPayload", "RoomMemberPayload", "ContactPayload", "RoomList", "MessageSendText", "MessageRecall")


class _Server(Server):
    """Keeps its connections, and the authority (the token of wechaty) of each call."""

    def __init__(self, service: LoopbackPuppet) -> None:
        super().__init__([service])
        self.protocols: list[H2Protocol] = []
        self.authorities = service.authorities

    def _protocol_factory(self) -> H2Protocol:
        protocol = super()._protocol_factory()
        self.protocols.append(protocol)
        accept = protocol.handler.accept

        def recording(stream: Any, headers: Any, release_stream: Any) -> None:
            self.authorities.append(dict(headers).get(":authority", ""))
            accept(stream, headers, release_stream)

        protocol.handler.accept = recording
        return protocol

    def transports(self) -> list[asyncio.Transport]:
        found = [getattr(getattr(protocol, "connection", None), "_transport", None) for protocol in self.protocols]  # a closed connection has none
        return [transport for transport in found if transport is not None and not transport.is_closing()]


class LoopbackPuppet:
    """``async with LoopbackPuppet() as server``. Attributes are the state of the fake WeChat; ``fail`` and ``hang`` break single calls."""

    def __init__(self) -> None:
        self.payloads: dict[str, Any] = {}
        self.topics: dict[str, str] = {"chat-1": "部署交流群", "chat-2": "第二群"}
        self.contacts: dict[str, str] = {BOT: "豆解", "alice": "爱丽丝", "bob": "鲍勃", "carol": "卡罗"}
        self.owners: dict[str, str] = {"chat-1": "olive"}
        self.admins: dict[str, list[str]] = {"chat-1": ["max"]}
        self.aliases: dict[tuple[str, str], str] = {}
        self.sent: list[tuple[str, str, tuple[str, ...]]] = []
        self.recalled: list[str] = []
        self.calls: Counter[str] = Counter()
        self.authorities: list[str] = []
        self.failures: dict[str, list[Status]] = {}
        self.delays: dict[str, asyncio.Event] = {}  # what answers wait for, by message id or by text of a reply (which the group sees at once)
        self.hanging: set[str] = set()
        self.answers_ding = True
        self.logs_in = True
        self.port = 0
        self._streams: list[asyncio.Queue[pb.EventResponse | Status | None]] = []
        self._muted: set[int] = set()
        self._backlog: list[pb.EventResponse] = []
        self._server: _Server | None = None

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def listen(self) -> None:
        self._server = _Server(self)
        await self._server.start("127.0.0.1", self.port)
        assert self._server._server is not None
        self.port = self._server._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop the service as a crash does: connections are cut."""
        server, self._server = self._server, None
        if server is not None:
            self.drop()
            server.close()
            await server.wait_closed()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def connected(self) -> bool:
        return bool(self._streams)

    # -- what the test does

    def event(self, kind: int, data: object) -> None:
        """Send an event; while nobody listens it waits, as in a real service. Text ``data`` goes out as it is."""
        response = pb.EventResponse(type=kind, payload=data if isinstance(data, str) else json.dumps(data))
        if not self._streams:
            self._backlog.append(response)
        for queue in self._streams:
            queue.put_nowait(response)

    def message(
        self, message_id: str, text: str = "你好", *, room: str = "chat-1", sender: str = "alice", kind: int = 7, at: float = 1772442000, mentions: tuple[str, ...] = ()
    ) -> None:
        self.payloads[message_id] = self.payload(message_id, text, room, sender, kind, at, mentions)
        self.event(2, {"messageId": message_id})

    @staticmethod
    def payload(
        message_id: str, text: str = "你好", room: str = "chat-1", sender: str = "alice", kind: int = 7, at: float = 1772442000, mentions: tuple[str, ...] = ()
    ) -> pb.MessagePayloadResponse:
        return pb.MessagePayloadResponse(id=message_id, text=text, room_id=room, from_id=sender, type=kind, timestamp=int(at), mention_ids=list(mentions))

    def login(self) -> None:
        self.event(25, {"contactId": BOT})

    def end_stream(self, status: Status | None = None) -> None:
        """End the event stream, with OK (None) or an error status."""
        for queue in self._streams:
            queue.put_nowait(status)
        self._streams.clear()

    def drop(self) -> None:
        """Cut all TCP connections."""
        for transport in self._server.transports() if self._server else []:
            transport.abort()
        self._streams.clear()

    def black_hole(self) -> None:
        """From now on nothing is read from, or written to, the present connections; they stay open."""
        for transport in self._server.transports() if self._server else []:
            transport.pause_reading()
        self._streams.clear()

    def mute(self) -> None:
        """From now on the present event streams stay open and carry nothing; calls are answered."""
        self._muted.update(map(id, self._streams))

    def fail(self, call: str, *statuses: Status) -> None:
        """Let the next calls of this name fail, one after the other."""
        self.failures.setdefault(call, []).extend(statuses)

    # -- the service

    def __mapping__(self) -> dict[str, Handler]:
        handlers = {
            f"/wechaty.Puppet/{name}": Handler(self._unary(name), Cardinality.UNARY_UNARY, getattr(pb, f"{name}Request"), getattr(pb, f"{name}Response")) for name in _NAMES
        }
        return handlers | {"/wechaty.Puppet/Event": Handler(self._events, Cardinality.UNARY_STREAM, pb.EventRequest, pb.EventResponse)}

    def _unary(self, name: str) -> Any:
        async def handle(stream: Stream[Any, Any]) -> None:
            request = await stream.recv_message()
            self.calls[name] += 1
            if name in self.hanging:
                await asyncio.Event().wait()
            if self.failures.get(name):
                raise GRPCError(self.failures[name].pop(0), f"cannot do {request.to_dict()}")  # some services repeat what they were asked
            await stream.send_message(await getattr(self, f"_{name.lower()}")(request, stream))

        return handle

    async def _events(self, stream: Stream[Any, Any]) -> None:
        await stream.recv_message()
        await stream.send_initial_metadata()
        queue: asyncio.Queue[pb.EventResponse | Status | None] = asyncio.Queue()
        self._streams.append(queue)
        if self.logs_in:
            await stream.send_message(pb.EventResponse(type=25, payload=json.dumps({"contactId": BOT})))
        backlog, self._backlog = self._backlog, []
        for response in backlog:
            queue.put_nowait(response)
        try:
            while isinstance(response := await queue.get(), pb.EventResponse):
                if id(queue) not in self._muted:
                    await stream.send_message(response)
            if response is not None:
                raise GRPCError(response, "gone")
        finally:
            self._muted.discard(id(queue))
            if queue in self._streams:
                self._streams.remove(queue)

    async def _start(self, *_: Any) -> Any:
        return pb.StartResponse()

    async def _stop(self, *_: Any) -> Any:
        return pb.StopResponse()

    async def _version(self, *_: Any) -> Any:
        return pb.VersionResponse(version="1.20.2")

    async def _ding(self, request: Any, _: Any) -> Any:
        if self.answers_ding:
            self.event(3, {"data": request.data})
        return pb.DingResponse()

    async def _messagepayload(self, request: Any, _: Any) -> Any:
        if (delay := self.delays.get(request.id)) is not None:
            await delay.wait()
        if request.id not in self.payloads:
            raise GRPCError(Status.NOT_FOUND, "no such message")
        return self.payloads[request.id]

    async def _roompayload(self, request: Any, _: Any) -> Any:
        return pb.RoomPayloadResponse(id=request.id, topic=self.topics.get(request.id, ""), owner_id=self.owners.get(request.id, ""), admin_ids=self.admins.get(request.id, []))

    async def _roommemberpayload(self, request: Any, _: Any) -> Any:
        return pb.RoomMemberPayloadResponse(id=request.member_id, room_alias=self.aliases.get((request.id, request.member_id), ""))

    async def _contactpayload(self, request: Any, _: Any) -> Any:
        return pb.ContactPayloadResponse(id=request.id, name=self.contacts.get(request.id, ""))

    async def _roomlist(self, *_: Any) -> Any:
        return pb.RoomListResponse(ids=list(self.topics))

    async def _messagesendtext(self, request: Any, _: Any) -> Any:
        self.sent.append((request.conversation_id, request.text, tuple(request.mentonal_ids)))
        message_id = f"sent-{len(self.sent)}"
        self.message(message_id, request.text, room=request.conversation_id, sender=BOT)  # a gateway echoes what the bot says
        if (delay := self.delays.get(request.text)) is not None:
            await delay.wait()
        return pb.MessageSendTextResponse(id=message_id)

    async def _messagerecall(self, request: Any, _: Any) -> Any:
        self.recalled.append(request.id)
        return pb.MessageRecallResponse(success=True)
