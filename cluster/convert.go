package cluster

import "github.com/tandem-moe/tandem/internal/tandemv1"

func identityToProto(id Identity) *tandemv1.Identity {
	return &tandemv1.Identity{
		Version: id.Version, Model: id.Model, Numerics: id.Numerics,
		Layers: int64(id.Layers), Experts: int64(id.Experts), TopK: int64(id.TopK),
	}
}

func identityFromProto(p *tandemv1.Identity) Identity {
	return Identity{
		Version: p.GetVersion(), Model: p.GetModel(), Numerics: p.GetNumerics(),
		Layers: int(p.GetLayers()), Experts: int(p.GetExperts()), TopK: int(p.GetTopK()),
	}
}

func helloToProto(h Hello) *tandemv1.Hello {
	p := &tandemv1.Hello{
		Role: string(h.Role), Addr: h.Addr, Identity: identityToProto(h.Identity), Wire: h.Wire, Combine: h.Combine,
	}
	if h.Place != AnyPlace {
		place := int64(h.Place)
		p.Place = &place
	}
	return p
}

func helloFromProto(role Role, p *tandemv1.Hello) Hello {
	h := Hello{
		Role: role, Addr: p.GetAddr(), Identity: identityFromProto(p.GetIdentity()), Place: AnyPlace,
		Wire: p.GetWire(), Combine: p.GetCombine(),
	}
	if p.Place != nil {
		h.Place = int(p.GetPlace())
	}
	return h
}

func progressToProto(p Progress) *tandemv1.Beat {
	return &tandemv1.Beat{Loaded: p.Loaded, Steps: p.Steps, Awaited: p.Awaited, Action: p.Action}
}

func progressFromProto(b *tandemv1.Beat) Progress {
	return Progress{Loaded: b.GetLoaded(), Steps: b.GetSteps(), Awaited: b.GetAwaited(), Action: b.GetAction()}
}

func memberToProto(m Member) *tandemv1.Member {
	return &tandemv1.Member{
		Id: m.ID, Role: string(m.Role), Addr: m.Addr, Epoch: m.Epoch, Place: int64(m.Place), Ready: m.Ready,
		Draining: m.Draining, Reached: m.Reached, Placement: m.Placement,
	}
}

func memberFromProto(p *tandemv1.Member) Member {
	return Member{
		ID: p.GetId(), Role: Role(p.GetRole()), Addr: p.GetAddr(),
		Epoch: p.GetEpoch(), Place: int(p.GetPlace()), Ready: p.GetReady(), Draining: p.GetDraining(),
		Reached: p.GetReached(), Placement: p.GetPlacement(),
	}
}

func viewToProto(v View) *tandemv1.View {
	p := &tandemv1.View{
		Version: v.Version, ExpertNodes: int64(v.ExpertNodes), MicroBatches: int64(v.MicroBatches),
		MaxModelLen: int64(v.MaxModelLen), MaxBatchedTokens: int64(v.MaxBatchedTokens),
		Wire: v.Wire, Combine: v.Combine,
		Placement: placementToProto(v.Placement), Next: placementToProto(v.Next),
	}
	for _, m := range v.Members {
		p.Members = append(p.Members, memberToProto(m))
	}
	p.Unreached = unreachedToProto(v.Unreached)
	return p
}

func placementToProto(p Placement) *tandemv1.Placement {
	if p.Version == 0 {
		return nil
	}
	return &tandemv1.Placement{Version: p.Version, Experts: p.Experts}
}

func placementFromProto(p *tandemv1.Placement) Placement {
	return Placement{Version: p.GetVersion(), Experts: p.GetExperts()}
}

func unreachedToProto(pairs []Unreached) []*tandemv1.Unreached {
	var p []*tandemv1.Unreached
	for _, u := range pairs {
		p = append(p, &tandemv1.Unreached{Attention: u.Attention, Expert: u.Expert, Reason: cleaned(u.Reason)})
	}
	return p
}

func unreachedFromProto(p []*tandemv1.Unreached) []Unreached {
	var pairs []Unreached
	for _, u := range p {
		pairs = append(pairs, Unreached{Attention: u.GetAttention(), Expert: u.GetExpert(), Reason: u.GetReason()})
	}
	return pairs
}

func viewFromProto(p *tandemv1.View) View {
	v := View{Version: p.GetVersion(), Settings: Settings{
		ExpertNodes: int(p.GetExpertNodes()), MicroBatches: int(p.GetMicroBatches()),
		MaxModelLen: int(p.GetMaxModelLen()), MaxBatchedTokens: int(p.GetMaxBatchedTokens()),
		Wire: p.GetWire(), Combine: p.GetCombine(),
	}, Placement: placementFromProto(p.GetPlacement()), Next: placementFromProto(p.GetNext())}
	for _, m := range p.GetMembers() {
		v.Members = append(v.Members, memberFromProto(m))
	}
	v.Unreached = unreachedFromProto(p.GetUnreached())
	return v
}
