// Command golden replays the steps of tests/golden/scenario.yaml: it reads one a line as JSON, makes
// it with this client, and writes what came of it.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"secondlook"
	pb "secondlook/v1"
)

// Step is one line of the scenario. What a step does not need is absent.
type Step struct {
	Do, As, Address, Token, CA string
	Service, Method            string
	Request                    json.RawMessage
	Seconds                    float64
	Image                      []byte
	Name, Keep, Stream, Mode   string
	Classes                    []string
	Images                     [][]byte
	Count                      int
	Snapshot, Model            string
	Version                    uint32
	Queue, Person, Answer      string
}

type object = map[string]any

type stream struct {
	frames chan secondlook.Frame
	next   func() (*pb.FrameAnswer, error, bool)
	stop   func()
}

var (
	clients = map[string]*secondlook.Client{}
	streams = map[string]stream{}
	actions = map[string]func(context.Context, Step) (any, error){
		"connect": connect, "call": call, "label": label, "open": open, "send": send, "answers": answers,
		"finish": finish, "pull": pull, "fetch": fetch, "review": review,
	}
)

func main() {
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		outcome, err := json.Marshal(replayed(line))
		if err != nil {
			panic(err)
		}
		fmt.Println(string(outcome))
	}
}

func replayed(line []byte) any {
	var step Step
	if err := json.Unmarshal(line, &step); err != nil {
		panic(err)
	}
	ctx := context.Background()
	if step.Seconds > 0 {
		limited, cancel := context.WithTimeout(ctx, time.Duration(step.Seconds*float64(time.Second)))
		defer cancel()
		ctx = limited
	}
	outcome, err := actions[step.Do](ctx, step)
	var failed *secondlook.Error
	if errors.As(err, &failed) {
		return object{"error": object{"code": failed.Code.String(), "reason": failed.Reason,
			"message": failed.Error(), "hint": failed.RetryAfter > 0}}
	} else if err != nil {
		return object{"refused": err.Error()}
	}
	return outcome
}

func connect(_ context.Context, step Step) (any, error) {
	client, err := secondlook.Dial(step.Address, secondlook.Options{Token: step.Token, CA: step.CA})
	clients[step.As] = client
	return object{}, err
}

func call(ctx context.Context, step Step) (any, error) {
	service := protoreflect.FullName("secondlook.v1." + step.Service)
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(service)
	if err != nil {
		return nil, err
	}
	method := found.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(step.Method))
	request, answer := message(method.Input()), message(method.Output())
	if err := protojson.Unmarshal(step.Request, request); err != nil {
		return nil, err
	}
	path := fmt.Sprintf("/%s/%s", service, step.Method)
	if err := clients[step.As].Invoke(ctx, path, request, answer); err != nil {
		return nil, err
	}
	written, err := protojson.Marshal(answer)
	return json.RawMessage(written), err
}

func message(kind protoreflect.MessageDescriptor) proto.Message {
	found, err := protoregistry.GlobalTypes.FindMessageByName(kind.FullName())
	if err != nil {
		panic(err)
	}
	return found.New().Interface()
}

func label(ctx context.Context, step Step) (any, error) {
	answer, err := clients[step.As].Label(ctx, &pb.LabelRequest{
		Image: step.Image, Name: step.Name, Keep: step.Keep, Ontology: ontology(step.Classes),
	})
	return labelled(answer.GetLabelled()), err
}

func ontology(names []string) *pb.Ontology {
	if names == nil {
		return nil
	}
	classes := make([]*pb.ClassSpec, len(names))
	for number, name := range names {
		classes[number] = &pb.ClassSpec{Name: name}
	}
	return &pb.Ontology{Classes: classes}
}

func labelled(found *pb.Labelled) object {
	labels := []object{}
	for _, one := range found.GetJudgements() {
		if one.Outcome == pb.Outcome_OUTCOME_ACCEPT {
			box := []float32{one.Box.X1, one.Box.Y1, one.Box.X2, one.Box.Y2}
			labels = append(labels, object{"class": one.ClassName, "box": box, "probability": one.Probability})
		}
	}
	return object{"name": found.GetName(), "sha256": found.GetSha256(), "labels": labels,
		"size": []uint32{found.GetWidth(), found.GetHeight()}}
}

func open(_ context.Context, step Step) (any, error) {
	opening := &pb.StreamOpening{StreamId: step.Name, Ontology: ontology(step.Classes),
		Mode: pb.StreamMode(pb.StreamMode_value["STREAM_MODE_"+step.Mode])}
	frames := make(chan secondlook.Frame, 64)
	next, stop := iter.Pull2(clients[step.As].Stream(context.Background(), opening, frames))
	streams[step.Stream] = stream{frames, next, stop}
	return object{}, nil
}

func send(_ context.Context, step Step) (any, error) {
	for _, image := range step.Images {
		streams[step.Stream].frames <- secondlook.Frame{Image: image, Name: step.Name}
	}
	return object{}, nil
}

func answers(_ context.Context, step Step) (any, error) {
	found := []object{}
	for len(found) < step.Count {
		answer, err, more := streams[step.Stream].next()
		if err != nil {
			return nil, err
		} else if !more {
			break
		}
		told := object{"sequence": answer.Sequence}
		switch kind := answer.Answer.(type) {
		case *pb.FrameAnswer_Labelled:
			told["labelled"] = labelled(kind.Labelled)
		case *pb.FrameAnswer_Failure:
			told["failure"] = object{"reason": kind.Failure.Reason, "message": kind.Failure.Message}
		case *pb.FrameAnswer_Dropped:
			told["dropped"] = true
		case *pb.FrameAnswer_Stored:
			told["stored"] = true
		}
		found = append(found, told)
	}
	slices.SortFunc(found, func(a, b object) int { return int(a["sequence"].(uint64)) - int(b["sequence"].(uint64)) })
	return found, nil
}

func finish(ctx context.Context, step Step) (any, error) {
	close(streams[step.Stream].frames)
	defer streams[step.Stream].stop()
	step.Count = 1 << 30
	return answers(ctx, step)
}

func pull(ctx context.Context, step Step) (any, error) {
	found := []object{}
	request := &pb.PullRequest{Snapshot: step.Snapshot, Images: true}
	for image, err := range clients[step.As].Pull(ctx, request) {
		if err != nil {
			return nil, err
		}
		found = append(found, object{"sha256": image.Sha256, "name": image.Name, "split": image.Split,
			"boxes": len(image.Boxes), "bytes": len(image.Content)})
	}
	return found, nil
}

func fetch(ctx context.Context, step Step) (any, error) {
	client, files := clients[step.As], object{}
	answer, err := client.GetModel(ctx, &pb.GetModelRequest{Name: step.Model, Version: step.Version})
	for file := range answer.GetModel().GetFiles() {
		content, failed := client.ModelFile(ctx, answer.Model, file)
		err = errors.Join(err, failed)
		files[file] = fmt.Sprintf("%x", sha256.Sum256(content))
	}
	return object{"version": answer.GetModel().GetVersion(), "files": files}, err
}

func review(ctx context.Context, step Step) (any, error) {
	client := clients[step.As]
	next, err := client.NextReviewItems(ctx, &pb.NextReviewItemsRequest{Queue: step.Queue, Person: step.Person})
	if err != nil || len(next.Items) == 0 {
		return object{"asked": ""}, err
	}
	item := next.Items[0]
	kept, err := client.AnswerReviewItem(ctx, &pb.AnswerReviewItemRequest{Item: item.Id, Person: step.Person,
		Answer: pb.ReviewAnswer(pb.ReviewAnswer_value["REVIEW_ANSWER_"+step.Answer])})
	said := kept.GetReview()
	return object{"asked": item.ClassName, "kept": said.GetAnswer().String(), "person": said.GetPerson()}, err
}
