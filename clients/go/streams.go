package secondlook

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"iter"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "secondlook/v1"
)

// window is how many frames may be sent and not answered; they are in memory, to be sent again.
const window = 32

// followed is the highest number of a server that is counted on from; no clock gives such a one.
const followed = 1 << 46

// Frame is an encoded image for a stream, with a name for people.
type Frame struct {
	Image []byte
	Name  string
}

// Stream labels frames (live), or hands them over for good (capture), as opening.Mode says, until
// the channel is closed. Each frame has one answer, under a number that rises from 0 or, in capture
// mode, with the clock; there "stored" means that the frame is durable. A broken line is made anew for
// as long as ctx lasts, and frames without an answer are sent again under their numbers, which a
// server stores once. At most 32 frames are taken ahead of their answers.
func (c *Client) Stream(
	ctx context.Context, opening *pb.StreamOpening, frames <-chan Frame,
) iter.Seq2[*pb.FrameAnswer, error] {
	return func(yield func(*pb.FrameAnswer, error) bool) {
		s := &stream{client: c, opening: opening, frames: frames, last: -1, yield: yield}
		if err := again(ctx, forever, func() (bool, error) { return s.connect(ctx) }); err != nil {
			yield(nil, err)
		}
	}
}

type stream struct {
	client  *Client
	opening *pb.StreamOpening
	frames  <-chan Frame
	last    int64
	waiting []*pb.StreamFrame // without an answer, by number
	yield   func(*pb.FrameAnswer, error) bool
}

type response struct {
	*pb.LabelStreamResponse
	err error
}

// connect is one connection, to its end; the error is nil when nothing is left to do.
func (s *stream) connect(ctx context.Context) (progress bool, _ error) {
	ctx, hangUp := context.WithCancel(ctx)
	defer hangUp()
	call, err := s.client.LabelStream(ctx)
	if err != nil {
		return false, err
	}
	responses := make(chan response, window+2) // never full, so neither side waits for the other
	go func() {
		for err := error(nil); err == nil; {
			var message *pb.LabelStreamResponse
			message, err = call.Recv()
			responses <- response{message, err}
		}
	}()
	// Why a Send failed, Recv says.
	_ = call.Send(&pb.LabelStreamRequest{Message: &pb.LabelStreamRequest_Opening{Opening: s.opening}})
	for opened, closed := false, false; ; {
		frames := s.frames
		if !opened || closed || len(s.waiting) == window {
			frames = nil
		}
		select {
		case frame, more := <-frames:
			if closed = !more; closed {
				_ = call.CloseSend()
			} else {
				_ = call.Send(s.numbered(frame))
			}
		case got := <-responses:
			if got.err != nil && closed && len(s.waiting) == 0 {
				return true, nil
			} else if got.err != nil {
				return s.broken(progress, got.err)
			} else if answer := got.GetAnswer(); answer != nil {
				if progress = true; !s.answered(answer) {
					return true, nil
				}
				continue
			}
			opened = true
			if number := got.GetOpened().ResumeAfter; number != nil && *number < followed {
				s.last = max(s.last, int64(*number))
			}
			for _, frame := range s.waiting {
				_ = call.Send(message(frame))
			}
		}
	}
}

func (s *stream) numbered(frame Frame) *pb.LabelStreamRequest {
	s.last++
	if s.opening.Mode == pb.StreamMode_STREAM_MODE_CAPTURE {
		s.last = max(s.last, time.Now().UnixMilli())
	}
	numbered := &pb.StreamFrame{Sequence: uint64(s.last), Image: frame.Image, Name: frame.Name}
	s.waiting = append(s.waiting, numbered)
	return message(numbered)
}

func (s *stream) answered(answer *pb.FrameAnswer) (more bool) {
	before := len(s.waiting)
	s.waiting = slices.DeleteFunc(s.waiting, func(frame *pb.StreamFrame) bool {
		return frame.Sequence == answer.Sequence
	})
	return len(s.waiting) == before || s.yield(answer, nil) // an answer that comes twice is told once
}

// broken gives up the largest frame where a message was too large, for it would break each line.
func (s *stream) broken(progress bool, cause error) (bool, error) {
	if cause == io.EOF {
		return progress, status.Error(codes.Unavailable, "the server ended the stream")
	}
	failed := typed(cause)
	if failed.Reason != "message_too_large" || len(s.waiting) == 0 {
		return progress, failed
	}
	largest := slices.MaxFunc(s.waiting, func(a, b *pb.StreamFrame) int { return len(a.Image) - len(b.Image) })
	failure := &pb.FrameFailure{Reason: failed.Reason, Message: failed.Error()}
	if !s.answered(&pb.FrameAnswer{Sequence: largest.Sequence, Answer: &pb.FrameAnswer_Failure{Failure: failure}}) {
		return true, nil
	}
	return true, unavailable(cause)
}

func message(frame *pb.StreamFrame) *pb.LabelStreamRequest {
	return &pb.LabelStreamRequest{Message: &pb.LabelStreamRequest_Frame{Frame: frame}}
}

// Pull gives the images of a snapshot in its order, from request.Cursor on, and goes on behind the
// last one where the line breaks. Contents are checked by their hashes.
func (c *Client) Pull(ctx context.Context, request *pb.PullRequest) iter.Seq2[*pb.SnapshotImage, error] {
	return func(yield func(*pb.SnapshotImage, error) bool) {
		ctx, hangUp := context.WithCancel(ctx)
		defer hangUp()
		rest := proto.CloneOf(request)
		err := again(ctx, c.options.UnavailableFor, func() (progress bool, _ error) {
			call, err := c.DatasetServiceClient.Pull(ctx, rest)
			for err == nil {
				var page *pb.PullResponse
				if page, err = call.Recv(); err == io.EOF {
					return true, nil
				}
				for _, image := range page.GetImages() {
					if rest.Images && !intact(image.Content, image.Sha256) {
						return true, damaged(image.Name)
					}
					if !yield(image, nil) {
						return true, nil
					}
					rest.Cursor, progress = image.Cursor, true
				}
			}
			return progress, err
		})
		if err != nil {
			yield(nil, err)
		}
	}
}

// ModelFile fetches a file of a version, goes on where the line breaks, and checks it by its hash.
func (c *Client) ModelFile(ctx context.Context, model *pb.ModelVersion, file string) ([]byte, error) {
	var content []byte
	whole := model.Files[file]
	err := again(ctx, c.options.UnavailableFor, func() (progress bool, _ error) {
		rest := &pb.DownloadModelRequest{
			Name: model.Name, Version: model.Version, File: file, Offset: uint64(len(content))}
		call, err := c.DownloadModel(ctx, rest)
		for err == nil {
			var part *pb.DownloadModelResponse
			if part, err = call.Recv(); err == nil && len(part.Data) > 0 {
				content, progress = append(content, part.Data...), true
			}
			if err == io.EOF && intact(content, whole.GetSha256()) {
				return true, nil
			}
			if err == io.EOF || uint64(len(content)) > whole.GetSize() {
				return true, damaged(file)
			}
		}
		return progress, err
	})
	return content, err
}

func intact(content []byte, sha256Hex string) bool {
	return fmt.Sprintf("%x", sha256.Sum256(content)) == sha256Hex
}

func damaged(name string) error {
	cause := status.Errorf(codes.DataLoss, "%s came with other bytes than its hash says; run `secondlook check`", name)
	return &Error{Code: codes.DataLoss, Reason: "damaged", cause: cause}
}
